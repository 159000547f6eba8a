// The curves of one method's page.
(() => {
  "use strict";
  const { groups, metrics } = window.msabenchResults;
  const { choose, drawCurves, MOST_CURVES } = window.msabench;
  const form = document.getElementById("controls");
  const holder = document.getElementById("curves");
  const name = holder.dataset.method;
  const mine = groups.filter((group) => group.rows.some((row) => row.method === name));

  for (const [key, metric] of Object.entries(metrics)) metric.key = key;

  function draw() {
    const chosen = choose(form.group, mine.map((group) => [group.id, `${group.title}: ${group.protocolText}`]), form.group.value);
    const group = mine.find((one) => one.id === chosen);
    const keys = Object.keys(group.definitions);
    const metric = metrics[choose(form.metric, keys.map((key) => [key, metrics[key].title]), form.metric.value || group.default)];
    const here = group.rows.filter((row) => row.method === name);
    const rows = [...group.rows.filter((row) => row.constant && row.method !== name), ...here].slice(0, MOST_CURVES);
    const left = here.length - rows.filter((row) => row.method === name).length;
    const more = left > 0 ? ` ${left} more rows of variants are on the page of results.` : "";
    document.getElementById("protocol").textContent = `${group.protocolText}. ${group.definitions[metric.key]}.${more}`;
    const caveat = document.getElementById("caveat");
    caveat.textContent = group.caveat;
    caveat.hidden = !group.caveat;
    drawCurves(holder, group, metric, rows, "all");
  }
  form.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
