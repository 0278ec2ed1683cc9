// A run: curves by step, validation images over time.
function fillRun(part, body) {
  const plots = new Map();
  for (const curve of part.curves) plots.set(curve.plot, [...(plots.get(curve.plot) ?? []), curve]);
  if (plots.size) body.append(panel("Curves", "A click on a name hides its curve; a drag enlarges a range; a double click resets it.", element("div", { class: "plots" }, ...[...plots].map(curvePlot))));
  if (part.images.length) body.append(validation(part));
}

function curvePlot([name, curves]) {
  let number = 0;
  const traces = curves.map((curve) => {
    const colour = curve.reference ? "#8a94a6" : COLOURS[number++ % COLOURS.length];
    const one = curve.steps.length === 1;
    return {
      type: "scatter", name: curve.name, x: curve.steps, y: curve.values, mode: curve.steps.length < 30 && !curve.reference ? "lines+markers" : one ? "markers" : "lines",
      line: { color: colour, width: 2, dash: curve.reference ? "dash" : "solid" }, marker: { color: colour, size: 6 },
    };
  });
  const ends = curves.map((curve) => `${curve.name}: ${curve.values[0]} at step ${curve.steps[0]}, ${curve.values[curve.values.length - 1]} at step ${curve.steps[curve.steps.length - 1]}`);
  return plot(name, "", `${name} by step. ${ends.join("; ")}`, traces, () => ({ showlegend: curves.length > 1, xaxis: { title: { text: "step" } }, yaxis: { type: name === "Learning rate" ? "log" : "linear", exponentformat: "power" } }));
}

function validation(part) {
  const viewer = compare("Validation image");
  let image = part.images[0], timer = null;
  const names = choice(part.images.map((each, number) => [number, each.name]), (value) => { image = part.images[value]; begin(); });
  const slider = element("input", { class: "slide", type: "range", min: 0, step: 1, "aria-label": "Step of the validation", oninput: draw });
  const output = element("output", { class: "status" });
  const play = element("button", { class: "button", type: "button", onclick: () => {
    if (timer) return stop();
    play.textContent = "Pause";
    timer = setInterval(() => { slider.value = (Number(slider.value) + 1) % image.results.length; draw(); }, 700);
  } }, "Play");
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }
  function draw() {
    const [stage, step, key] = image.results[Number(slider.value)];
    output.textContent = `${stage}, step ${thousands(step)}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    viewer.set([{ name: "bicubic", key: image.bicubic }, { name: "result", key, note: output.textContent }, { name: "HR", key: image.hr }], [image.width, image.height], ["bicubic", "result"]);
  }
  function begin() {
    slider.max = image.results.length - 1;
    slider.value = slider.max;
    play.disabled = image.results.length < 2;
    draw();
  }
  const made = panel("Validation images over time", "Bicubic upsampling, the result at a step, and HR.",
    element("div", { class: "bar" }, field("Image", names), play, output), slider, viewer.root);
  begin();
  return made;
}
