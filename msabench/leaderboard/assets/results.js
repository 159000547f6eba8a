// The page of results: what is selected, and what follows from it. The selection stands in the address.
(() => {
  "use strict";
  const { averages, derived, groups, metrics } = window.msabenchResults;
  const { choose, distinct, element, drawNumbers, drawCurves, MOST_CURVES } = window.msabench;
  const form = document.getElementById("controls");
  const byId = (id) => document.getElementById(id);
  const state = { group: "", metric: "", zeros: "non0", order: "correct", family: "all", fidelity: "all", origin: "all", regime: "all", tuning: "default", variants: "default" };
  const sort = ["", ""];
  const ticked = new Set();
  let group = null;
  let settings = "all";
  let made = null;
  let visible = [];

  for (const [key, metric] of Object.entries(metrics)) metric.key = key;

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(state)) if (given.has(key)) state[key] = given.get(key);
    group = groups.find((one) => one.id === state.group) ?? groups.find((one) => one.dataset === given.get("dataset")) ?? groups[0];
  }

  function writeAddress() {
    const words = new URLSearchParams(state);
    history.replaceState(null, "", `#${words}`);
  }

  const protocolOf = (one) => one.protocolText.split("; ").slice(1).concat(`revision ${one.protocol.revision}`).join("; ");

  // The metric of a name under the two switches, or the nearest there is.
  function metricOf(name) {
    const here = Object.keys(group.definitions).map((key) => metrics[key]).filter((metric) => metric.name === name);
    const zeros = here.filter((metric) => !metric.zeros || metric.zeros === state.zeros);
    return zeros.find((metric) => metric.swapped === (state.order === "swapped")) ?? zeros[0] ?? here[0];
  }

  function fillControls() {
    const datasets = distinct(groups.map((one) => one.dataset));
    choose(form.dataset, datasets.map((name) => [name, groups.find((one) => one.dataset === name).title]), group.dataset);
    const features = distinct(groups.filter((one) => one.dataset === group.dataset).map((one) => one.features));
    choose(form.features, features.map((name) => [name, name]), group.features);
    const alike = groups.filter((one) => one.dataset === group.dataset && one.features === group.features);
    choose(form.protocol, alike.map((one) => [one.id, protocolOf(one)]), group.id);
    const names = distinct(Object.keys(group.definitions).map((key) => metrics[key].name));
    const titles = names.map((name) => [name, Object.values(metrics).find((metric) => metric.name === name).title.replace(/ \((non-0|has-0|swapped)\)$/, "")]);
    state.metric = choose(form.metric, titles, state.metric || metrics[group.default].name);
    const fidelities = distinct(group.rows.filter((row) => !row.constant).map((row) => row.fidelity)).sort();
    state.fidelity = choose(form.fidelity, [["all", "all"], ...fidelities.map((name) => [name, name])], state.fidelity);
    const scored = group.rows.some((row) => row.scored);
    state.origin = choose(form.origin, [["all", "all"], ...(scored ? [["trained", "trained here"], ["scored", "only scored here"]] : [])], state.origin);
    const regimes = distinct(group.rows.map((row) => row.regime)).sort();
    state.regime = choose(form.regime, [["all", "all"], ...regimes.map((name) => [name, name])], state.regime);
    // Where there are only tuned rows, or none, there is nothing to choose; the choice waits for a group with both.
    const ours = group.rows.filter((row) => !row.constant && !row.scored);
    const tuned = ours.filter((row) => row.tuning).length;
    const both = tuned > 0 && tuned < ours.length;
    if (both) settings = state.tuning = choose(form.tuning, [["default", "of the configs"], ["tuned", "tuned"], ["all", "both"]], state.tuning);
    else settings = choose(form.tuning, [["all", tuned ? "tuned" : "of the configs"]], "all");
    const blocks = distinct(group.columns.map((column) => column.block));
    for (const option of form.family.options) option.hidden = option.disabled = option.value !== "all" && !blocks.includes(option.value);
    if (state.family !== "all" && !blocks.includes(state.family)) state.family = "all";
    for (const name of ["family", "variants"]) form[name].value = state[name];
    for (const name of ["zeros", "order"]) form.elements[name].value = state[name];
    const fellows = Object.keys(group.definitions).map((key) => metrics[key]).filter((metric) => metric.name === state.metric);
    byId("zeros").disabled = !fellows.some((metric) => metric.zeros);
    byId("order").disabled = !fellows.some((metric) => metric.swapped);
  }

  // The constant baseline stays whatever is filtered.
  function keep(row) {
    if (row.constant) return true;
    if (state.fidelity !== "all" && row.fidelity !== state.fidelity) return false;
    if (state.origin !== "all" && row.scored !== (state.origin === "scored")) return false;
    if (state.regime !== "all" && row.regime !== state.regime) return false;
    // Of what was only scored here nobody knows how its settings came about.
    if (!row.scored && settings !== "all" && Boolean(row.tuning) !== (settings === "tuned")) return false;
    return state.variants === "all" || row.variant === "default";
  }

  function describe(metric, rows) {
    byId("heading").textContent = `${group.title}: ${metric.title}${metric.percent ? ", percent" : ""}`;
    byId("protocol").textContent = `${group.protocolText}. ${metric.title}: ${group.definitions[metric.key]}; ${metric.direction === "max" ? "higher" : "lower"} is better.`;
    byId("caveat").textContent = group.caveat;
    byId("caveat").hidden = !group.caveat;
    byId("swapped").hidden = !metric.swapped;
    const hidden = group.rows.length - rows.length;
    const lines = [
      hidden ? `${hidden} of ${group.rows.length} rows are left out by the selection above.` : "",
      "Bold: best of a column. Point at or tap a number, or move to it with the arrow keys, for its interval.",
      `${averages.join("; ")}. Seeds = training seeds with records.`,
      ...(state.family === "derived" ? derived.map((meaning) => `${meaning}.`) : []),
      ...group.notes,
    ];
    byId("legend").replaceChildren(...lines.filter(Boolean).map((line) => element("li", {}, line)));
  }

  function plot() {
    const metric = metricOf(state.metric);
    const chosen = visible.filter((row) => ticked.has(row));
    const rows = chosen.length ? chosen : visible.slice(0, MOST_CURVES);
    byId("curves-note").textContent = chosen.length
      ? `The ${chosen.length} ticked rows of the table.`
      : `The first ${rows.length} rows of the table, as sorted and filtered. Tick rows to choose.`;
    drawCurves(byId("curves"), group, metric, rows, state.family);
  }

  let waiting = 0;
  function changed(rows) {
    visible = rows;
    // The table answers at once, the curves when nothing has changed for a moment.
    clearTimeout(waiting);
    waiting = setTimeout(plot, 150);
  }

  async function draw() {
    fillControls();
    writeAddress();
    const metric = metricOf(state.metric);
    const rows = group.rows.filter(keep);
    const search = made ? made.search() : "";
    made?.destroy();
    describe(metric, rows);
    made = await drawNumbers(byId("table"), { group, metric, family: state.family, rows, ticked, sort, search, changed });
  }

  function select(one) {
    group = one;
    state.group = one.id;
    ticked.clear();
    sort.splice(0, 2, "", "");
  }

  form.addEventListener("change", (event) => {
    const { name, value } = event.target;
    if (name === "dataset") select(groups.find((one) => one.dataset === value));
    else if (name === "features") select(groups.find((one) => one.dataset === group.dataset && one.features === value));
    else if (name === "protocol") select(groups.find((one) => one.id === value));
    else state[name] = value;
    draw();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("ticked", () => changed(visible));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => changed(visible));
  window.addEventListener("hashchange", () => {
    readAddress();
    draw();
  });
  readAddress();
  state.group = group.id;
  draw();
})();
