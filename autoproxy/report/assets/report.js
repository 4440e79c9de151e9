/* Draws the charts, makes tables sortable, and switches between light and dark. */
"use strict";

const root = document.documentElement;

function dark() {
  const chosen = root.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/* What charts take from the page, so that they are readable in both themes. */
function look() {
  const page = getComputedStyle(root);
  const text = page.getPropertyValue("--text").trim();
  const line = page.getPropertyValue("--line").trim();
  const font = getComputedStyle(document.body).fontFamily;
  const words = { labelColor: text, titleColor: text, labelFont: font, titleFont: font };
  return {
    background: "transparent",
    font: font,
    axis: { ...words, gridColor: line, domainColor: line, tickColor: line, gridOpacity: 0.6 },
    legend: { ...words, labelFontSize: 12 },
    header: words,
    title: { color: text, font: font },
    view: { stroke: line },
    text: { color: text },
    rule: { color: page.getPropertyValue("--soft").trim() },
  };
}

function draw() {
  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(place.parentElement.querySelector("script.spec").textContent);
    vegaEmbed(place, spec, {
      config: look(),
      renderer: "svg",
      tooltip: { theme: dark() ? "dark" : "light" },
      downloadFileName: place.dataset.name,
      actions: { export: true, source: false, compiled: false, editor: false },
    });
  }
}

function theme() {
  root.classList.toggle("dark", dark()); // DataTables looks at this class
  if (document.querySelector(".chart")) draw();
}

async function tables() {
  const { jQuery } = await window.tableLibrary;
  for (const table of document.querySelectorAll("table.sortable")) {
    const long = table.tBodies[0].rows.length > 12;
    jQuery(table).DataTable({
      order: [],
      paging: false,
      info: false,
      searching: long,
      autoWidth: false,
      layout: long ? { topStart: "search", topEnd: null } : { topStart: null, topEnd: null },
    });
  }
  const board = document.getElementById("board");
  if (board) {
    const heads = [...board.tHead.rows[0].cells].map((cell) => cell.textContent);
    const panes = ["model", "condition", "role"].map((name) => heads.indexOf(name));
    jQuery(board).DataTable({
      order: [],
      autoWidth: false,
      pageLength: 25,
      lengthMenu: [25, 100, { label: "all", value: -1 }],
      layout: {
        top1: { searchPanes: { columns: panes, initCollapsed: true, layout: "columns-3" } },
        topStart: "search",
        topEnd: "pageLength",
      },
    });
  }
  root.dataset.ready = "yes";
}

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch (e) { /* a private window */ }
  theme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
theme();
tables();
