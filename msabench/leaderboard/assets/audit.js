// Sorts and filters the findings; the table stands in the page without this, too.
(async () => {
  "use strict";
  const { choose, dataTables, distinct } = window.msabench;
  const COLUMNS = { certainty: 0, severity: 1, kind: 2, paper: 3, table: 4 };
  const form = document.getElementById("controls");
  const chosen = Object.fromEntries(Object.keys(COLUMNS).map((name) => [name, "all"]));
  const DataTable = await dataTables();
  const table = document.getElementById("findings");
  // Search field and page numbers stay outside of what scrolls.
  const scroll = table.parentElement;
  scroll.replaceWith(table);
  const made = new DataTable(table, {
    pageLength: 50,
    lengthMenu: [50, 100, -1],
    autoWidth: false,
    order: [],
    layout: { topStart: { search: { text: "Search findings" } }, topEnd: null, bottomStart: "info", bottomEnd: "paging" },
    language: { info: "_START_ to _END_ of _TOTAL_ findings", infoFiltered: "(_MAX_ in all)", zeroRecords: "No finding fits the selection." },
  });

  table.replaceWith(scroll);
  scroll.append(table);

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(COLUMNS)) if (given.has(name) || given.size) chosen[name] = given.get(name) ?? "all";
  }

  function draw() {
    for (const [name, place] of Object.entries(COLUMNS)) {
      const values = distinct(made.column(place).data().toArray()).sort();
      chosen[name] = choose(form[name], [["all", "all"], ...values.map((value) => [value, value])], chosen[name]);
      made.column(place).search.fixed("chosen", (text) => chosen[name] === "all" || text === chosen[name]);
    }
    made.draw();
  }

  form.addEventListener("change", (event) => {
    chosen[event.target.name] = event.target.value;
    draw();
  });
  window.addEventListener("hashchange", () => {
    readAddress();
    draw();
  });
  readAddress();
  draw();
})();
