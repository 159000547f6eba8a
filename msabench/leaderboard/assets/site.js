// What several pages share: DataTables, the note over a number, small helpers.
window.msabench = (() => {
  "use strict";

  // A page opened from disk may import a module from a blob, but not from a file.
  let library = null;
  function dataTables() {
    if (!library) {
      const url = URL.createObjectURL(new Blob([window.msabenchBundle], { type: "text/javascript" }));
      library = import(url).then((module) => module.default);
    }
    return library;
  }

  // Only text ever enters the page, so that no name can bring markup along.
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === true) made.setAttribute(key, "");
      else if (value !== false && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  function option(value, text = value, selected = false) {
    const made = element("option", { value }, text);
    made.selected = selected;
    return made;
  }

  function choose(select, options, wanted) {
    const values = options.map(([value]) => value);
    const value = values.includes(wanted) ? wanted : values[0];
    select.replaceChildren(...options.map(([key, text]) => option(key, text, key === value)));
    select.disabled = options.length < 2;
    return value;
  }

  const distinct = (values) => [...new Set(values)];

  function format(metric, value) {
    return value === null || value === undefined ? "nan" : value.toFixed(metric.decimals);
  }

  // A note that belongs to whatever has the pointer or the focus.
  const tip = element("div", { id: "tip", role: "tooltip", hidden: true });
  document.body.append(tip);
  function showTip(target, text) {
    tip.textContent = text;
    tip.hidden = false;
    target.setAttribute("aria-describedby", "tip");
    const box = target.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = box.bottom + tip.offsetHeight + 8 < window.innerHeight;
    tip.style.left = `${Math.max(left, 4) + window.scrollX}px`;
    tip.style.top = `${(below ? box.bottom + 4 : box.top - tip.offsetHeight - 4) + window.scrollY}px`;
  }
  function hideTip() {
    tip.hidden = true;
    document.querySelector("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
  });

  return { dataTables, element, choose, distinct, format, showTip, hideTip };
})();
