// Plots of chosen rows: over whatever is dropped or added by degrees, and over sets of available modalities.
(() => {
  "use strict";
  const { element } = window.msabench;
  const { blocks, level } = window.msabenchResults;

  // Okabe and Ito's colours, which readers with colour vision deficiencies tell apart; markers and dashes differ too.
  const LIGHT = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#a87000", "#56b4e9", "#6b6b6b"];
  const DARK = ["#ffffff", "#ff9d5c", "#6db9f2", "#3fd1a4", "#e79fc8", "#f0c04a", "#9ad6ff", "#b5b5b5"];
  const MARKERS = ["square", "circle", "triangle-up", "diamond", "x", "star", "triangle-down", "cross"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const MOST = 8;
  const CURVES = ["intra", "random", "random-table", "aligned", "block", "block-aligned", "noise"];

  // It is large; the rest of the page does not wait for it.
  const address = new URL("plotly.min.js", document.currentScript.src).href;
  let library = null;
  function plotly() {
    library ??= new Promise((done, failed) => {
      const script = element("script", { src: address });
      script.addEventListener("load", () => done(window.Plotly));
      script.addEventListener("error", failed);
      document.head.append(script);
    });
    return library;
  }

  function errors(values) {
    const intervals = values.every((value) => value && value.length === 4 && value[2] !== null);
    const bars = values.map((value) => {
      if (!value || value[0] === null) return [0, 0];
      return intervals ? [value[3] - value[0], value[0] - value[2]] : [value[1] ?? 0, value[1] ?? 0];
    });
    return { intervals, up: bars.map((bar) => Math.max(bar[0], 0)), down: bars.map((bar) => Math.max(bar[1], 0)) };
  }

  function trace(row, number, places, metricKey, x, lines, colours) {
    const values = places.map((place) => row.values[metricKey][place]);
    const bars = errors(values);
    const colour = colours[number % colours.length];
    return {
      x,
      y: values.map((value) => value && value[0]),
      name: row.title,
      mode: lines ? "lines+markers" : "markers",
      line: { color: colour, width: 2, dash: DASHES[Math.floor(number / colours.length) % DASHES.length] },
      marker: { color: colour, symbol: MARKERS[number % MARKERS.length], size: 8 },
      error_y: { type: "data", symmetric: false, array: bars.up, arrayminus: bars.down, thickness: 1, width: 3, color: colour },
      connectgaps: false,
      intervals: bars.intervals,
    };
  }

  // The range that all bars fit in. Plotly would start at 0 where marks stand side by side.
  function rangeOf(traces) {
    const ends = traces.flatMap((t) => t.y.flatMap((y, i) => (y === null || y === undefined ? [] : [y - t.error_y.arrayminus[i], y + t.error_y.array[i]])));
    if (!ends.length) return undefined;
    const room = (Math.max(...ends) - Math.min(...ends)) / 20 || 1;
    return [Math.min(...ends) - room, Math.max(...ends) + room];
  }

  function style(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // The figure of an id, made when it is first wanted and drawn anew after that.
  function figureOf(holder, id) {
    const there = holder.querySelector(`#${id}`);
    if (there) return there;
    const area = element("div", { id, role: "img" });
    holder.append(element("figure", {}, area, element("figcaption")));
    return area;
  }

  function plot(Plotly, holder, id, group, metric, rows, block, xTitle, lines) {
    const places = group.columns.flatMap((column, place) => (column.block === block && !column.key.startsWith("avg") ? [place] : []));
    if (!places.length || !rows.length) {
      holder.querySelector(`#${id}`)?.parentElement.remove();
      return;
    }
    const headers = places.map((place) => group.columns[place].header);
    // A header may say what its rate comes to: "0.7 (2/3)".
    const x = lines ? headers.map(Number.parseFloat) : headers;
    const colours = document.documentElement.classList.contains("dark") ? DARK : LIGHT;
    const traces = rows.map((row, number) => trace(row, number, places, metric.key, x, lines, colours));
    const spread = traces.every((t) => t.intervals) ? `${level} % intervals` : `${level} % intervals where there are any, else standard deviations over seeds`;
    const about = `${metric.title}${metric.percent ? ", percent" : ""}: ${group.title}. Bars: ${spread}.`;
    const area = figureOf(holder, id);
    area.setAttribute("aria-label", `${about} ${xTitle}. Methods: ${rows.map((row) => row.title).join(", ")}.`);
    area.nextElementSibling.textContent = about;
    const narrow = holder.clientWidth < 600;
    const axis = { gridcolor: style("--line"), linecolor: style("--soft"), zeroline: false, automargin: true, fixedrange: narrow };
    Plotly.react(
      area,
      traces,
      {
        height: narrow ? 460 : 420,
        margin: { l: 50, r: 15, t: 15, b: 45 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: style("--ink"), family: "inherit", size: 13 },
        scattermode: lines ? "overlay" : "group",
        xaxis: { ...axis, title: { text: xTitle }, ...(lines && block !== "noise" ? { dtick: 0.1 } : lines ? {} : { type: "category" }) },
        yaxis: { ...axis, range: rangeOf(traces), title: { text: metric.title + (metric.percent ? " (%)" : "") } },
        legend: narrow ? { orientation: "h", y: -0.3 } : {},
        showlegend: true,
      },
      { responsive: true, displayModeBar: false },
    );
  }

  // Text of a label may hold tags that plotly would draw as such.
  const plain = (text) => text.replaceAll("<", "‹").replaceAll(">", "›");

  window.msabench.MOST_CURVES = MOST;
  window.msabench.drawCurves = async (holder, group, metric, rows, family) => {
    const Plotly = await plotly();
    const several = new Set(rows.map((row) => row.regime)).size > 1;
    const titled = rows.map((row) => ({ ...row, title: plain(several ? `${row.label} (${row.regime})` : row.label) }));
    const over = (block) => (["all", "both", block].includes(family) ? titled : []);
    for (const block of CURVES) plot(Plotly, holder, `curve-${block}`, group, metric, over(block), block, blocks[block], true);
    plot(Plotly, holder, "curve-inter", group, metric, over("inter"), "inter", blocks.inter, false);
  };
})();
