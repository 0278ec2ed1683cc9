// An evaluation: summary, results side by side, difference maps, metrics of each image.
function fillEvaluation(part, body) {
  const format = (name, value) => (value === null ? "–" : value.toFixed(part.digits[name]));
  const lower = new Set(part.lower_is_better);
  const heading = (name) => `${name} ${lower.has(name) ? "↓" : "↑"}`;
  body.append(panel("Metrics", "↑ higher is better, ↓ lower is better. ± is the standard error over the seeds. The best value of each benchmark is bold.", summaryTable()));
  const viewer = part.images.length ? resultViewer(part, format, lower) : null;
  if (viewer) body.append(...viewer.panels);
  if (part.rows.length) body.append(imageTable());
  if (part.skipped.length) body.append(panel("Left out", "", element("table", { class: "facts" }, ...part.skipped.map(([name, reason]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, reason))))));

  function summaryTable() {
    const best = (benchmark, k) => {
      const values = part.summary.filter((row) => row[0] === benchmark && row[2][k] !== null).map((row) => row[2][k]);
      return lower.has(part.metrics[k]) ? Math.min(...values) : Math.max(...values);
    };
    const rows = part.summary.map(([benchmark, method, means, errors]) => element("tr", {}, element("td", { class: "text" }, benchmark), element("th", { scope: "row", class: "text" }, method),
      ...means.map((mean, k) => element("td", { class: mean !== null && mean === best(benchmark, k) ? "best" : "" },
        `${format(part.metrics[k], mean)}${errors[k] === null ? "" : ` ± ${format(part.metrics[k], errors[k])}`}`))));
    return element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "benchmark"), element("th", { scope: "col", class: "text" }, "method"), ...part.metrics.map((name) => element("th", { scope: "col" }, heading(name))))), element("tbody", {}, ...rows)));
  }

  function imageTable() {
    const columns = ["benchmark", "image", "method", ...part.metrics];
    let by = 3, down = !lower.has(part.metrics[0]) ? false : true, method = "", text = "";
    const bodyRows = element("tbody");
    const heads = columns.map((name, k) => element("th", { scope: "col", class: k < 3 ? "text" : "" }, element("button", { type: "button", onclick: () => {
      down = by === k ? !down : k > 2;
      by = k;
      update();
    } }, k < 3 ? name : heading(name))));
    const pages = pager(25, (shown) => bodyRows.replaceChildren(...shown.map(row)), "rows");
    const cell = (each, k) => (k < 3 ? each[k] : each[3][k - 3]);
    function row(each) {
      const known = viewer?.has(each[0], each[1]);
      const name = known ? element("button", { class: "link", type: "button", onclick: () => viewer.open(each[0], each[1], true) }, each[1]) : each[1] || "all images";
      return element("tr", {}, element("td", { class: "text" }, each[0]), element("td", { class: "text" }, name), element("td", { class: "text" }, each[2]),
        ...each[3].map((value, k) => element("td", {}, format(part.metrics[k], value))));
    }
    function update() {
      heads.forEach((head, k) => (k === by ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
      const rows = part.rows.filter((each) => (!method || each[2] === method) && each[1].toLowerCase().includes(text));
      const sign = down ? -1 : 1;
      pages.show(rows.sort((a, b) => {
        const [x, y] = [cell(a, by), cell(b, by)];
        if (x === null || y === null) return (x === null) - (y === null);
        return x < y ? -sign : x > y ? sign : 0;
      }));
    }
    const methods = [...new Set(part.rows.map((each) => each[2]))];
    const search = element("input", { type: "search", placeholder: "part of a name", oninput: () => { text = search.value.toLowerCase(); update(); } });
    const made = panel("Metrics of each image", `The headings sort.${viewer ? " A name opens the image." : ""}`,
      element("div", { class: "bar" }, field("Search", search), field("Method", choice([["", "all"], ...methods.map((name) => [name, name])], (value) => { method = value; update(); }))),
      pages.controls, element("div", { class: "scroll" }, element("table", { class: "images" }, element("thead", {}, element("tr", {}, ...heads)), bodyRows)));
    update();
    return made;
  }
}

function resultViewer(part, format, lower) {
  const viewer = compare("Results"), values = new Map();
  for (const [benchmark, image, method, row] of part.rows) values.set(JSON.stringify([benchmark, image, method]), row);
  const valueOf = (image, method, k) => values.get(JSON.stringify([image.benchmark, image.name, method]))?.[k] ?? null;
  const ours = (image) => image.results.map((result) => result[0]).find((method) => method.startsWith("samdiff")) ?? image.results[0][0];
  let metric = 0, worst = true, current = null;
  const list = element("ul", { class: "gallery" }), title = element("h2"), info = element("p", { class: "lead" });
  const differences = element("div", { class: "differences" });
  const pages = pager(12, (shown) => { list.replaceChildren(...shown.map((image) => element("li", {}, card(image)))); mark(); }, "images");
  function card(image) {
    const own = image.results.find((result) => result[0] === ours(image));
    return element("button", { class: "card", type: "button", title: image.name, "aria-pressed": "false", "data-at": part.images.indexOf(image), onclick: () => open(image, true) },
      element("span", { class: "thumb" }, element("img", { src: urlOf(own[1]), alt: "", loading: "lazy", decoding: "async" })),
      element("span", { class: "name" }, image.name), element("span", { class: "info" }, `${part.metrics[metric]} ${format(part.metrics[metric], valueOf(image, own[0], metric))}`));
  }
  function mark() {
    for (const each of list.querySelectorAll(".card")) each.setAttribute("aria-pressed", Number(each.dataset.at) === part.images.indexOf(current));
  }
  function order() {
    const sign = worst === lower.has(part.metrics[metric]) ? -1 : 1;
    const key = (image) => valueOf(image, ours(image), metric) ?? Infinity;
    return [...part.images].sort((a, b) => sign * (key(a) - key(b)));
  }
  function open(image, scroll) {
    current = image;
    title.textContent = image.name;
    info.textContent = `${image.benchmark}, ${image.width} x ${image.height} pixels${image.reduced ? ", reduced: pixels are not exact" : ""}`;
    const note = (method) => { const value = valueOf(image, method, metric); return value === null ? "" : format(part.metrics[metric], value); };
    viewer.set(image.results.map(([method, key]) => ({ name: method === "hr" ? "HR" : method, key, note: note(method) })), [image.width, image.height], ["bicubic", ours(image)]);
    const maps = image.results.filter((result) => result[2]);
    differences.replaceChildren(...maps.map(([method, , key]) => element("figure", {}, element("figcaption", {}, `|${method} − HR|`),
      element("img", { src: urlOf(key), alt: `Difference of ${method} and HR`, loading: "lazy", width: image.width, height: image.height }))));
    differencePanel.hidden = !maps.length;
    mark();
    if (scroll) title.scrollIntoView({ block: "start" });
  }
  function update(reopen) {
    const sorted = order();
    pages.show(sorted);
    if (reopen) open(sorted[0]);
  }
  const controls = element("div", { class: "bar" },
    field("Order", choice([["worst", "worst first"], ["best", "best first"]], (value) => { worst = value === "worst"; update(true); })),
    field("Metric", choice(part.metrics.map((name, k) => [k, name]), (value) => { metric = Number(value); update(true); })));
  const differencePanel = panel("Differences from HR", "The mean of |result − HR| over red, green and blue, in levels of 255.",
    element("div", { class: "scale" }), element("div", { class: "ends" }, element("span", {}, "0"), element("span", {}, "16"), element("span", {}, "32 or more")), differences);
  const resultPanel = element("section", { class: "panel" }, title, info, viewer.root);
  const panels = [panel("Images", "Ordered by the metric of samdiff.", controls, pages.controls, list), resultPanel, differencePanel];
  update(true);
  const find = (benchmark, name) => part.images.find((image) => image.benchmark === benchmark && image.name === name);
  return { panels, has: (benchmark, name) => Boolean(find(benchmark, name)), open: (benchmark, name, scroll) => open(find(benchmark, name), scroll) };
}
