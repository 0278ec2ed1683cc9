// Two images with a divider between them, and a lens that shows the same place of all images enlarged.
function compare(label) {
  let images = [], width = 1, height = 1, left = "", right = "", split = 50, at = [0.5, 0.5], held = false;
  const zoom = choice([[2, "2 x"], [4, "4 x"], [8, "8 x"], [16, "16 x"]], () => drawLens(), 4);
  const leftChoice = element("select", { onchange: () => { left = leftChoice.value; draw(); } });
  const rightChoice = element("select", { onchange: () => { right = rightChoice.value; draw(); } });
  const below = element("img", { class: "first", alt: "" }), above = element("img", { alt: "" });
  const divider = element("div", { class: "divider" }), target = element("div", { class: "target" });
  const leftTag = element("span", { class: "tag left" }), rightTag = element("span", { class: "tag right" });
  const stage = element("div", {
    class: "stage wipe", tabindex: 0, role: "group", "aria-label": `${label}: arrow keys move the lens, Enter holds it`,
    onkeydown: steer, onpointermove: hover, onpointerdown: grab,
  }, below, above, target, divider, leftTag, rightTag);
  const slider = element("input", {
    class: "slide", type: "range", min: 0, max: 100, step: 0.5, value: 50, "aria-label": `${label}: position of the divider`,
    oninput: () => { split = Number(slider.value); drawSplit(); },
  });
  const lenses = element("div", { class: "lenses", "aria-label": "The same place of all images, enlarged", role: "group" });
  const held_ = element("span", { class: "status", role: "status" }, "The lens follows the pointer; a click holds it.");
  const root = element("div", { class: "compare" },
    element("div", { class: "bar" }, field("Left", leftChoice), field("Right", rightChoice), field("Lens", zoom), element("span", { class: "grow" }), held_),
    element("div", { class: "view" }, element("div", {}, stage, slider), lenses));

  function place(event) {
    const box = stage.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((one) => Math.min(1, Math.max(0, one)));
  }
  function hover(event) {
    if (held || event.buttons) return;
    at = place(event);
    drawLens();
  }
  function grab(event) {
    if (event.button) return;
    const begin = event.clientX;
    let moved = false;
    const move = (next) => {
      if (!moved && Math.abs(next.clientX - begin) < 4) return;
      moved = true;
      split = place(next)[0] * 100;
      slider.value = split;
      drawSplit();
    };
    const end = (last) => {
      stage.removeEventListener("pointermove", move);
      if (moved) return;
      at = place(last);
      hold(!held);
    };
    stage.setPointerCapture(event.pointerId);
    stage.addEventListener("pointermove", move);
    stage.addEventListener("pointerup", end, { once: true });
  }
  function hold(value) {
    held = value;
    held_.textContent = held ? "The lens is held; a click releases it." : "The lens follows the pointer; a click holds it.";
    drawLens();
  }
  function steer(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Enter") hold(!held);
    if (!step) return;
    event.preventDefault();
    at = at.map((one, axis) => Math.min(1, Math.max(0, one + step[axis] * 0.02)));
    drawLens();
  }
  function drawSplit() {
    above.style.clipPath = `inset(0 0 0 ${split}%)`;
    divider.style.left = `${split}%`;
  }
  function draw() {
    const find = (name) => images.find((image) => image.name === name) ?? images[0];
    const [first, second] = [find(left), find(right)];
    below.src = first.url;
    below.alt = first.name;
    above.src = second.url;
    above.alt = second.name;
    leftTag.textContent = first.name;
    rightTag.textContent = second.name;
    drawSplit();
    drawLens();
  }
  function drawLens() {
    const factor = Number(zoom.value);
    images.forEach((image, number) => {
      const lens = lenses.children[number].lastChild, size = lens.clientWidth || 160;
      lens.style.backgroundSize = `${width * factor}px ${height * factor}px`;
      lens.style.backgroundPosition = `${size / 2 - at[0] * width * factor}px ${size / 2 - at[1] * height * factor}px`;
    });
    const size = (lenses.firstChild?.lastChild.clientWidth || 160) / factor;
    Object.assign(target.style, {
      width: `${(100 * size) / width}%`, height: `${(100 * size) / height}%`,
      left: `${100 * (at[0] - size / 2 / width)}%`, top: `${100 * (at[1] - size / 2 / height)}%`,
    });
  }
  function options(select, value) {
    select.replaceChildren(...images.map((image) => element("option", { value: image.name }, image.name)));
    select.value = value;
  }
  // `list`: {name, key, note}; the chosen names stay if they are in it.
  function set(list, size, defaults) {
    images = list.map((image) => ({ ...image, url: urlOf(image.key) }));
    [width, height] = size;
    const names = images.map((image) => image.name);
    left = names.includes(left) ? left : names.includes(defaults[0]) ? defaults[0] : names[0];
    right = names.includes(right) ? right : names.includes(defaults[1]) ? defaults[1] : names[names.length - 1];
    options(leftChoice, left);
    options(rightChoice, right);
    const wide = `min(100%, ${Math.max(width, Math.min(720, width * 4), 240)}px, ${((72 * width) / height).toFixed(2)}vh)`;
    stage.style.width = slider.style.width = wide;
    stage.style.aspectRatio = `${width} / ${height}`;
    stage.classList.toggle("enlarged", width < 720);
    lenses.replaceChildren(...images.map((image) => {
      const lens = element("div", { class: "lens", role: "img", "aria-label": `${image.name}, enlarged` });
      lens.style.backgroundImage = `url("${image.url}")`;
      return element("figure", {}, element("figcaption", {}, image.note ? `${image.name} · ${image.note}` : image.name), lens);
    }));
    draw();
  }
  new ResizeObserver(() => { if (images.length) drawLens(); }).observe(lenses);
  return { root, set };
}
