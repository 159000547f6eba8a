// The table of one group and metric.
(() => {
  "use strict";
  const { element, format, showTip, hideTip } = window.msabench;
  const { blocks: meanings, level } = window.msabenchResults;
  const DERIVED = "derived";

  // How a column's numbers are printed, and which way they are better: derived quantities have ways of their own.
  function specOf(column, metric) {
    if (column.kind === "relative") return { ...metric, percent: true, decimals: 1 };
    return column.kind === "spread" ? { ...metric, direction: "min" } : metric;
  }

  function bestOf(rows, place, metric, column) {
    // A constant answer keeps all of what it has and has no spread.
    if (column.kind === "relative" || column.kind === "spread") return null;
    // Nobody here saw how scored predictions came about: they are best of nothing.
    const means = rows.filter((row) => !row.scored).map((row) => row.values[metric.key][place]?.[0]).filter((mean) => mean !== null && mean !== undefined);
    if (means.length < 2) return null;
    return metric.direction === "max" ? Math.max(...means) : Math.min(...means);
  }

  function noteOf(row, place, metric, column) {
    const value = row.values[metric.key][place];
    if (!value) return `${row.label}, ${column.header}: no records, never run.`;
    const [seeds, masks, collapsed, unseen] = row.counts[place];
    const [mean, std, low, high] = value;
    const whyUndefined = column.kind ? "undefined, since what it is made of is" : "undefined, since predictions or labels are constant";
    const lines = [`${row.label}, ${column.header}: ${mean === null ? whyUndefined : format(metric, mean)}`];
    if (value.length < 4) lines.push("no interval");
    else if (low === null) lines.push("interval undefined: so is the metric in a resample");
    else lines.push(`${level} % interval ${format(metric, low)} to ${format(metric, high)}`);
    lines.push(`${seeds} training ${seeds === 1 ? "seed" : "seeds"}${std === null ? "" : `, standard deviation ${format(metric, std)}`}`);
    if (masks) lines.push(`${masks} ${masks === 1 ? "draw" : "draws"} of the test masks`);
    if (seeds < row.seeds) lines.push(`fewer seeds than the row's ${row.seeds}`);
    if (collapsed) lines.push(`† collapsed in ${collapsed} of ${seeds} seeds`);
    if (unseen) lines.push("¶ rests on modalities alone that no training clip had");
    return lines.join("\n");
  }

  function numberCell(row, place, metric, column, best, first) {
    const value = row.values[metric.key][place];
    const worst = metric.direction === "max" ? -1e9 : 1e9;
    const cell = element("td", { class: `number${first ? " first" : ""}`, tabindex: "-1", "data-order": value?.[0] ?? worst });
    if (!value) {
      cell.append("-");
    } else {
      const [seeds, , collapsed, unseen] = row.counts[place];
      cell.append(format(metric, value[0]));
      if (seeds < row.seeds) cell.append(`(${seeds})`);
      if (collapsed) cell.append(collapsed < seeds ? `†${collapsed}` : "†");
      if (unseen) cell.append("¶");
      if (value[0] !== null && value[0] === best && !row.scored) cell.classList.add("best");
    }
    cell.note = () => noteOf(row, place, metric, column);
    return cell;
  }

  const isDoubtful = (row) => ["experimental", "external", "scored", "unknown"].includes(row.fidelity);

  function nameCell(row) {
    const name = element("th", { scope: "row" }, element("a", { href: `methods/${row.page}` }, row.label));
    if (isDoubtful(row)) name.append(" ?");
    return name;
  }

  function tickCell(row, ticked) {
    const box = element("input", { type: "checkbox", "aria-label": `Draw ${row.label}, ${row.regime}` });
    box.checked = ticked.has(row);
    box.addEventListener("change", () => {
      if (box.checked) ticked.add(row);
      else ticked.delete(row);
      box.dispatchEvent(new CustomEvent("ticked", { bubbles: true }));
    });
    return element("td", {}, box);
  }

  function fidelityCell(row) {
    return element("td", {}, element("span", { class: isDoubtful(row) ? "badge doubtful" : "" }, (isDoubtful(row) ? "? " : "") + row.fidelity));
  }

  // What stands beside the numbers; the first column is hidden, keeps the constant baseline on top, and what was only
  // scored here below all that was trained here.
  const LABELS = {
    constant: (row) => element("td", {}, row.constant ? "0" : row.scored ? "2" : "1"),
    Method: nameCell,
    Curve: tickCell,
    Regime: (row) => element("td", {}, row.regime),
    Fidelity: fidelityCell,
    Seeds: (row) => element("td", { class: "number" }, row.failures.length ? `${row.seeds}, ${row.failures.length} failed` : String(row.seeds)),
  };
  const FIRST = ["constant", "Method"];
  const REST = ["Curve", "Regime", "Fidelity", "Seeds"];

  function headOf(columns, before, after) {
    const top = element("tr");
    const bottom = element("tr");
    const label = (name) => element("th", { rowspan: 2, scope: "col", class: name === "Method" ? "pinned" : "" }, name);
    top.append(...before.map(label));
    const blocks = [...new Set(columns.map(([column]) => column.block))];
    for (const block of blocks) {
      const here = columns.filter(([column]) => column.block === block);
      top.append(element("th", { colspan: here.length, scope: "colgroup", class: "first", "data-dt-order": "disable" }, meanings[block] ?? "made of several situations"));
      here.forEach(([column], number) => {
        bottom.append(element("th", { scope: "col", class: `number${number ? "" : " first"}` }, column.header));
      });
    }
    top.append(...after.map(label));
    return element("thead", {}, top, bottom);
  }

  function bodyOf({ metric, rows, ticked }, columns, before, after) {
    const body = element("tbody");
    const best = new Map(columns.map(([column, place]) => [place, bestOf(rows, place, metric, column)]));
    for (const row of rows) {
      const line = element("tr", { class: row.constant ? "constant" : "" });
      line.append(...before.map((name) => LABELS[name](row, ticked)));
      columns.forEach(([column, place], number) => {
        const first = !number || columns[number - 1][0].block !== column.block;
        line.append(numberCell(row, place, specOf(column, metric), column, best.get(place), first));
      });
      line.append(...after.map((name) => LABELS[name](row, ticked)));
      line.row = row;
      body.append(line);
    }
    return body;
  }

  // One stop for the tab key; arrows move between numbers.
  function moveByKeys(table) {
    const numbers = (line) => [...line.querySelectorAll("td[tabindex]")];
    const enter = () => {
      const first = table.querySelector("tbody td[tabindex]");
      if (first && !table.querySelector("tbody td[tabindex='0']")) first.tabIndex = 0;
    };
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td[tabindex]");
      if (!cell || !(event.key in steps)) return;
      event.preventDefault();
      const lines = [...table.querySelectorAll("tbody tr")];
      const [down, right] = steps[event.key];
      const line = lines[lines.indexOf(cell.parentElement) + down];
      const target = line && numbers(line)[numbers(cell.parentElement).indexOf(cell) + right];
      target?.focus();
    });
    table.addEventListener("focusin", (event) => {
      const cell = event.target.closest("td[tabindex]");
      if (!cell) return;
      for (const other of table.querySelectorAll("td[tabindex='0']")) other.tabIndex = -1;
      cell.tabIndex = 0;
      showTip(cell, cell.note());
    });
    table.addEventListener("focusout", hideTip);
    table.addEventListener("pointerover", (event) => {
      const cell = event.target.closest("td[tabindex]");
      if (cell) showTip(cell, cell.note());
    });
    table.addEventListener("pointerout", hideTip);
    enter();
    return enter;
  }

  // Draws the table into a holder; `sort` is [name of a column, direction] and is kept up to date.
  window.msabench.drawNumbers = async (holder, selection) => {
    const { group, metric, family, sort, search, changed } = selection;
    const DataTable = await window.msabench.dataTables();
    const columns = group.columns.map((column, place) => [column, place]).filter(([column]) => (family === "all" ? column.block !== DERIVED : column.block === family));
    // On a phone the numbers come first.
    const before = matchMedia("(max-width: 40rem)").matches ? FIRST : [...FIRST, ...REST];
    const after = REST.filter((name) => !before.includes(name));
    const table = element("table", { class: "numbers", "aria-labelledby": "heading" });
    table.append(headOf(columns, before, after), bodyOf(selection, columns, before, after));
    holder.replaceChildren(table);
    const names = [...before, ...columns.map(([column]) => `${column.block} ${column.key}`), ...after];
    const place = names.indexOf(sort[0]);
    const better = metric.direction === "max" ? ["desc", "asc"] : ["asc", "desc"];
    const made = new DataTable(table, {
      paging: false,
      autoWidth: false,
      orderMulti: false,
      order: place > 0 ? [[place, sort[1]]] : [],
      orderFixed: { pre: [[0, "asc"]] },
      search: { search },
      columnDefs: [
        { targets: 0, visible: false },
        { targets: names.indexOf("Curve"), orderable: false, searchable: false },
        { targets: columns.map((_, number) => before.length + number), type: "num", orderSequence: better, searchable: false },
      ],
      layout: { topStart: { search: { text: "Search rows" } }, topEnd: null, bottomStart: "info", bottomEnd: null },
      language: { info: "_TOTAL_ rows", infoFiltered: "of _MAX_", infoEmpty: "no row", zeroRecords: "No row fits the selection." },
    });
    // The container scrolls, not the page.
    const scroll = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": "heading" });
    table.replaceWith(scroll);
    scroll.append(table);
    const enter = moveByKeys(table);
    made.on("draw", () => {
      const [order] = made.order();
      if (order) sort.splice(0, 2, names[order[0]], order[1]);
      sayOrder(made, order);
      enter();
      changed(shown(made));
    });
    sayOrder(made, made.order()[0]);
    changed(shown(made));
    return made;
  };

  // Behind a fixed order, DataTables says the direction of that to screen readers.
  function sayOrder(made, order) {
    for (const header of made.table().header().querySelectorAll("[aria-sort]")) header.removeAttribute("aria-sort");
    if (order) made.column(order[0]).header().setAttribute("aria-sort", order[1] === "asc" ? "ascending" : "descending");
  }

  function shown(made) {
    return made.rows({ search: "applied", order: "applied" }).nodes().toArray().map((line) => line.row);
  }
})();
