// What all parts use: elements, images, paging, plots. Text from files only ever becomes the text of an element.
const page = JSON.parse(document.getElementById("data").textContent);
let stored = null; // images in the page: key -> data URL

function urlOf(key) {
  if (!page.inline) return `./${encodeURIComponent(page.folder)}/${key}`;
  stored ??= JSON.parse(document.getElementById("images").textContent);
  return stored[key];
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  assign(made, attributes, children);
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  assign(made, attributes, children);
  return made;
}

function assign(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
}

const thousands = (value) => value.toLocaleString("en");
const panel = (heading, lead, ...children) =>
  element("section", { class: "panel" }, element("h2", {}, heading), lead ? element("p", { class: "lead" }, lead) : null, ...children);
const field = (label, control) => element("label", { class: "field" }, label, control);

function choice(options, onchange, value) {
  const made = element("select", { onchange: () => onchange(made.value) });
  for (const [key, text] of options) made.append(element("option", { value: key }, text));
  if (value !== undefined) made.value = value;
  return made;
}

function toggle(label, checked, onchange) {
  const input = element("input", { type: "checkbox", checked, onchange: () => onchange(input.checked) });
  return element("label", { class: "toggle" }, input, label);
}

// Shows `size` of many items at a time: `render(items)` draws those of the current page.
function pager(size, render, what) {
  let items = [], number = 0;
  const status = element("span", { class: "status", role: "status" });
  const back = element("button", { class: "button", type: "button", onclick: () => go(number - 1) }, "Previous");
  const next = element("button", { class: "button", type: "button", onclick: () => go(number + 1) }, "Next");
  const input = element("input", { type: "number", min: 1, "aria-label": "Page", onchange: () => go(Number(input.value) - 1) });
  function go(to) {
    const pages = Math.max(1, Math.ceil(items.length / size));
    number = Math.min(Math.max(0, Math.floor(to) || 0), pages - 1);
    const shown = items.slice(number * size, (number + 1) * size);
    const range = shown.length ? `${thousands(number * size + 1)}–${thousands(number * size + shown.length)} of ` : "";
    status.textContent = `${range}${thousands(items.length)} ${what}`;
    input.value = number + 1;
    input.max = pages;
    back.disabled = number === 0;
    next.disabled = number === pages - 1;
    for (const each of [back, input, next]) each.hidden = pages === 1;
    render(shown);
  }
  const controls = element("div", { class: "bar pages" }, status, element("span", { class: "grow" }), back, input, next);
  return { controls, show: (list) => { items = list; go(0); } };
}

// Plotly is stored compressed; its script runs when the first plot comes into view.
let plotly = null;
function loadPlotly() {
  plotly ??= (async () => {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (one) => one.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = element("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    return window.Plotly;
  })();
  return plotly;
}

const COLOURS = ["#4a86e8", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#785ef0", "#56b4e9"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const drawn = [];

function theme(extra = {}) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--muted").trim(), grid = style.getPropertyValue("--grid").trim();
  const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 }, bargap: 0.06,
    margin: { l: 52, r: 14, t: 14, b: 42 }, legend: { orientation: "h", yanchor: "bottom", y: 1.02, x: 0, font: { size: 11 } }, hovermode: "x unified",
    hoverlabel: { bgcolor: style.getPropertyValue("--surface").trim(), font: { color: style.getPropertyValue("--ink").trim() } },
    ...extra, xaxis: { ...axis, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
  };
}

// A figure whose plot is drawn when it comes near the visible part of the page. `layout()` gives what is special about it.
function plot(title, note, label, traces, layout) {
  const chart = element("div", { class: "chart", role: "img", "aria-label": label });
  const figure = element("figure", { class: "plot" }, element("figcaption", {}, title, note ? element("small", {}, note) : null), chart);
  const options = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
  const watcher = new IntersectionObserver(async (entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watcher.disconnect();
    const library = await loadPlotly(), before = dark.matches;
    await library.newPlot(chart, traces, theme(layout()), options);
    drawn.push({ chart, layout });
    if (dark.matches !== before) library.relayout(chart, theme(layout())); // it changed meanwhile
  }, { rootMargin: "200px" });
  watcher.observe(chart);
  return figure;
}

async function redraw() {
  const library = await loadPlotly();
  for (const { chart, layout } of drawn) library.relayout(chart, theme(layout()));
}
dark.addEventListener("change", () => { if (drawn.length) redraw(); });

function start() {
  const fill = { store: fillStore, run: fillRun, evaluation: fillEvaluation };
  const sections = page.parts.map((part, number) => document.getElementById(`part-${number}`));
  const tabs = document.getElementById("tabs"), filled = new Set();
  const buttons = page.parts.map((part, number) => {
    const name = part.title.replace(/[\\/]+$/, "").split(/[\\/]/).pop();
    return element("button", { type: "button", role: "tab", id: `tab-${number}`, "aria-controls": `part-${number}`, onclick: () => show(number) }, name);
  });
  function show(number) {
    sections.forEach((section, each) => { section.hidden = each !== number; });
    buttons.forEach((button, each) => {
      button.setAttribute("aria-selected", each === number);
      button.tabIndex = each === number ? 0 : -1;
    });
    if (filled.has(number)) return;
    filled.add(number);
    fill[page.parts[number].kind](page.parts[number], sections[number].querySelector(".body"));
  }
  if (buttons.length > 1) {
    sections.forEach((section, number) => {
      section.setAttribute("role", "tabpanel");
      section.setAttribute("aria-labelledby", `tab-${number}`);
    });
    tabs.append(...buttons);
    tabs.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const to = (buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length;
      show(to);
      buttons[to].focus();
    });
  } else tabs.remove();
  show(0);
  document.documentElement.dataset.ready = "true";
}
