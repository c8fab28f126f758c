"use strict";
(() => {
  const root = document.documentElement;

  // ---- light and dark: the system's, until the switch says otherwise ----
  const key = "lrsegformer-report-scheme";
  const remembered = (value) => {
    try { // Some browsers keep nothing for a page that is a file.
      if (value === undefined) return localStorage.getItem(key);
      localStorage.setItem(key, value);
    } catch { /* the switch then lasts as long as the page */ }
    return value ?? null;
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const control = document.querySelector("[data-scheme-switch]");
  const isDark = () => (root.dataset.scheme ? root.dataset.scheme === "dark" : system.matches);
  const name = () => {
    control.textContent = isDark() ? "Light" : "Dark";
    control.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} scheme`);
  };
  const kept = remembered();
  if (kept === "dark" || kept === "light") root.dataset.scheme = kept;
  control.hidden = false;
  name();
  control.addEventListener("click", () => {
    root.dataset.scheme = isDark() ? "light" : "dark";
    remembered(root.dataset.scheme);
    name();
  });
  system.addEventListener("change", name);

  // ---- tables: numbers fall at the first click, words rise; what is absent stays last ----
  const order = (row, column) => row.cells[column].dataset.order;
  const sort = (header) => {
    const row = header.parentElement;
    const body = row.closest("table").tBodies[0];
    const column = header.cellIndex;
    const rows = [...body.rows];
    const numeric = rows.every((one) => order(one, column) === "" || !Number.isNaN(Number(order(one, column))));
    const before = header.getAttribute("aria-sort");
    const first = numeric ? "descending" : "ascending";
    const other = numeric ? "ascending" : "descending";
    const direction = before === first ? other : first;
    const sign = direction === "ascending" ? 1 : -1;
    rows.sort((a, b) => {
      const [x, y] = [order(a, column), order(b, column)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y));
    });
    for (const cell of row.cells) if (cell.hasAttribute("aria-sort")) cell.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", direction);
    body.append(...rows);
  };
  for (const button of document.querySelectorAll("th[aria-sort] > button")) {
    button.addEventListener("click", () => sort(button.parentElement));
  }

  // ---- one of several views: radio buttons, so that arrow keys flip ----
  for (const group of document.querySelectorAll("[data-flip]")) {
    const views = [...group.parentElement.querySelectorAll("[data-view]")];
    const show = () => {
      const chosen = group.querySelector("input:checked").value;
      for (const view of views) view.hidden = view.dataset.view !== chosen;
    };
    group.addEventListener("change", show);
    show();
  }

  // ---- legends hide and show a model in the charts beside them ----
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      const marks = document.getElementById(button.getAttribute("aria-controls")).querySelectorAll("[data-series]");
      for (const mark of marks) if (mark.dataset.series === button.dataset.letter) mark.classList.toggle("off", !shown);
    });
  }
})();
