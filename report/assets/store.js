// A store: gallery, an image with its layers, the tile that training sees, distributions.
const LAYERS = [["masks", "Masks"], ["edges", "Boundaries"], ["structure", "E_SAM"]];

function fillStore(part, body) {
  const drawnOf = new Map(part.drawn.map((image) => [image.index, image]));
  const all = part.names.map((name, index) => ({ index, name, low: name.toLowerCase(), image: drawnOf.get(index), skipped: part.skipped[index] }));
  const viewer = imageViewer(part, () => order.filter((each) => each.image));
  let order = all, text = "", what = part.drawn.length ? "drawn" : "all", by = "order";
  const list = element("ul", { class: "gallery" });
  const pages = pager(24, (shown) => list.replaceChildren(...shown.map((each) => element("li", {}, card(each)))), "images");
  const kinds = { all: () => true, drawn: (each) => each.image, skipped: (each) => each.skipped !== undefined, rest: (each) => !each.image && each.skipped === undefined };
  const sorts = {
    order: (a, b) => a.index - b.index, name: (a, b) => (a.low < b.low ? -1 : 1), masks: (a, b) => part.masks[b.index] - part.masks[a.index],
    few: (a, b) => part.masks[a.index] - part.masks[b.index], coverage: (a, b) => (b.image?.coverage ?? -1) - (a.image?.coverage ?? -1),
  };
  function update() {
    order = all.filter((each) => kinds[what](each) && each.low.includes(text)).sort(sorts[by]);
    pages.show(order);
  }
  function card({ index, name, image, skipped }) {
    const thumb = image ? element("img", { src: urlOf(image.thumb), alt: "", loading: "lazy", decoding: "async" }) : skipped !== undefined ? "skipped" : "not drawn";
    const size = `${part.widths[index]} x ${part.heights[index]}`;
    const info = skipped !== undefined ? skipped : `${thousands(part.masks[index])} masks · ${image ? `${Math.round(image.coverage * 100)} % covered` : size}`;
    const button = element("button", { class: "card", type: "button", disabled: !image, title: name, onclick: () => viewer(index) },
      element("span", { class: "thumb" }, thumb), element("span", { class: "name" }, name), element("span", { class: "info" }, info));
    return button;
  }
  const search = element("input", { type: "search", placeholder: "part of a name", oninput: () => { text = search.value.toLowerCase(); update(); } });
  const filter = choice([["all", `all (${thousands(all.length)})`], ["drawn", `drawn (${thousands(part.drawn.length)})`],
    ["skipped", `skipped (${thousands(all.filter(kinds.skipped).length)})`], ["rest", `not drawn (${thousands(all.filter(kinds.rest).length)})`]], (value) => { what = value; update(); }, what);
  const sort = choice([["order", "order of the source"], ["name", "name"], ["masks", "most masks"], ["few", "fewest masks"], ["coverage", "coverage"]], (value) => { by = value; update(); });
  body.append(
    panel("Images", "Each image is put together from its tiles. Choose one to see its masks, boundaries and E_SAM.",
      element("div", { class: "bar" }, field("Search", search), field("Show", filter), field("Sort by", sort)), pages.controls, list),
    part.histograms.length ? panel("Distributions", "", element("div", { class: "plots" }, ...part.histograms.map(histogram))) : "",
  );
  update();
}

function histogram(data) {
  const { edges, counts, logarithmic } = data;
  const total = counts.reduce((sum, one) => sum + one, 0), most = counts.indexOf(Math.max(...counts));
  const middle = edges.slice(1).map((edge, k) => (logarithmic ? Math.sqrt(edge * edges[k]) : (edge + edges[k]) / 2));
  const short = (value) => Number(value.toPrecision(4)).toLocaleString("en");
  const label = `${data.title}: ${thousands(total)} ${data.of}, from ${short(edges[0])} to ${short(edges[edges.length - 1])} ${data.label}; the most, ${thousands(counts[most])}, between ${short(edges[most])} and ${short(edges[most + 1])}`;
  const bars = {
    type: "bar", x: middle, y: counts, width: edges.slice(1).map((edge, k) => edge - edges[k]), marker: { color: COLOURS[0] },
    customdata: middle.map((_, k) => `${short(edges[k])} to ${short(edges[k + 1])}`), hovertemplate: `%{customdata} ${data.label}: %{y} ${data.of}<extra></extra>`,
  };
  return plot(data.title, data.note, label, [bars], () => ({
    hovermode: "closest", xaxis: { title: { text: data.label }, type: logarithmic ? "log" : "linear" }, yaxis: { title: { text: data.of } },
  }));
}

// Returns a function that opens the dialog with an image; `images()` are those that the arrow keys go through.
function imageViewer(part, images) {
  const shown = { masks: true, edges: false, structure: false, numbers: false, tiles: true };
  let opacity = 0.55, current = null, tile = 0;
  const title = element("h2", { id: `viewer-${part.title}` }), info = element("p", { class: "lead" });
  const stage = element("div", { class: "stage" });
  const crops = element("div", { class: "crops" });
  const tileChoice = element("select", { onchange: () => chooseTile(Number(tileChoice.value)) });
  const table = element("tbody");
  const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: opacity, oninput: () => { opacity = Number(slider.value); layers(); } });
  const box = (name, label) => toggle(label, shown[name], (value) => { shown[name] = value; layers(); });
  const step = (by) => {
    const list = images(), at = list.findIndex((each) => each.index === current.index);
    const next = list[(at + by + list.length) % list.length];
    if (next) open(next.index);
  };
  const button = (text, label, action) => element("button", { class: "button", type: "button", "aria-label": label, onclick: action }, text);
  const dialog = element("dialog", { "aria-labelledby": title.id, onkeydown: (event) => {
    if (/^(INPUT|SELECT)$/.test(event.target.tagName)) return;
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  } },
  element("div", { class: "dialog-head" }, title, button("←", "Previous image", () => step(-1)), button("→", "Next image", () => step(1)), button("Close", "Close", () => dialog.close())),
  element("div", { class: "bar" }, ...LAYERS.map(([name, label]) => box(name, label)), box("numbers", "Numbers"), box("tiles", "Tiles"), field("Opacity of masks and E_SAM", slider)),
  element("div", { class: "view" },
    element("div", {}, stage, info),
    element("div", {},
      element("h3", {}, "The tile that training sees"),
      element("p", { class: "lead" }, `HR ${part.tile} x ${part.tile}, LR ${part.tile / part.scale} x ${part.tile / part.scale} pixels. Training takes random crops and flips of it.`),
      element("div", { class: "bar" }, field("Tile", tileChoice)), crops,
      element("p", { class: "lead" }, "E_SAM: one value per mask"), element("div", { class: "scale esam" }), element("div", { class: "ends" }, element("span", {}, "−√2"), element("span", {}, "0"), element("span", {}, "√2")),
      element("details", {}, element("summary", {}, "Largest masks"), element("div", { class: "scroll" }, element("table", {},
        element("thead", {}, element("tr", {}, ...["mask", "pixels", "IoU", "stability"].map((text) => element("th", { scope: "col" }, text)))), table))))));
  document.body.append(dialog);

  function layers() {
    for (const layer of stage.querySelectorAll("[data-layer]")) {
      const name = layer.dataset.layer;
      layer.style.display = shown[name] ? "" : "none";
      if (name === "masks" || name === "structure") layer.style.opacity = opacity;
    }
  }
  function chooseTile(number) {
    tile = number;
    tileChoice.value = number;
    stage.querySelectorAll(".tile").forEach((rect, each) => rect.classList.toggle("chosen", each === number));
    const [y, x] = current.tiles[number], width = part.widths[current.index], height = part.heights[current.index];
    const crop = (label, scale, ...keys) => element("figure", {}, element("figcaption", {}, label),
      svg("svg", { viewBox: `${x / scale} ${y / scale} ${part.tile / scale} ${part.tile / scale}`, role: "img", "aria-label": `${label} of tile ${number + 1}` },
        ...keys.map((key) => svg("image", { href: urlOf(key), width: width / scale, height: height / scale, preserveAspectRatio: "none" }))));
    crops.replaceChildren(crop("LR", part.scale, current.lr), crop("HR", 1, current.base), crop("Masks", 1, current.masks, current.edges), crop("E_SAM", 1, current.structure));
  }
  function open(index) {
    current = part.drawn.find((image) => image.index === index);
    const name = part.names[index], width = part.widths[index], height = part.heights[index];
    title.textContent = name;
    const reduced = current.width < width ? `, shown at ${Math.round((100 * current.width) / width)} %` : "";
    info.textContent = `${width} x ${height} pixels${reduced}; ${thousands(part.masks[index])} masks cover ${(current.coverage * 100).toFixed(1)} %; ${current.tiles.length} tiles.`;
    const size = Math.max(width, height) / 42;
    const overlay = svg("svg", { viewBox: `0 0 ${width} ${height}` },
      svg("g", { "data-layer": "tiles" }, ...current.tiles.map(([y, x], number) => svg("rect", {
        class: "tile", x, y, width: part.tile, height: part.tile, tabindex: 0, role: "button", "aria-label": `Tile ${number + 1}`,
        onclick: () => chooseTile(number), onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); chooseTile(number); } },
      }))),
      svg("g", { "data-layer": "numbers", "aria-hidden": "true" }, ...current.points.map(([mask, x, y]) => svg("text", { class: "number", x, y, "font-size": size, "stroke-width": size / 6 }, String(mask)))));
    stage.style.width = `min(100%, ${Math.max(current.width, 640)}px, ${((70 * width) / height).toFixed(2)}vh)`;
    stage.style.aspectRatio = `${width} / ${height}`;
    stage.replaceChildren(element("img", { class: "first", src: urlOf(current.base), alt: name }),
      ...LAYERS.map(([key, label]) => element("img", { class: "layer", "data-layer": key, src: urlOf(current[key]), alt: label })), overlay);
    tileChoice.replaceChildren(...current.tiles.map(([y, x], number) => element("option", { value: number }, `${number + 1}: x ${x}, y ${y}`)));
    table.replaceChildren(...current.points.slice(0, 20).map(([mask, , , area, iou, stability]) =>
      element("tr", {}, ...[mask, thousands(area), iou?.toFixed(3) ?? "–", stability?.toFixed(3) ?? "–"].map((cell) => element("td", {}, String(cell))))));
    layers();
    chooseTile(0);
    if (!dialog.open) dialog.showModal();
  }
  return open;
}
