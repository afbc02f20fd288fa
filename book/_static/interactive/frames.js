// The controls of the page "Step by step": stored frames, their measurements, and no computation.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("pmt-frames");
  const stored = document.getElementById("pmt-frames-data");
  if (!root || !stored) return;
  const data = JSON.parse(stored.textContent);
  const at = (id) => document.getElementById(id);
  const steps = at("pmt-steps");
  const blur = at("pmt-blur");
  const two = (value) => value.toFixed(2);

  const attack = (sigma) =>
    sigma === null ? "none" : sigma === 0 ? "contrast alone" : `sigma ${sigma} and contrast`;

  data.variants.forEach((variant, index) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "radio";
    input.name = "variant";
    input.value = String(index);
    input.checked = index === 0;
    label.append(input, ` ${variant.title}`);
    at("pmt-variants").append(label);
  });
  steps.max = String(data.steps.length - 1);
  blur.max = String(data.sigmas.length - 1);

  const chosen = () => Number(root.querySelector("input[name=variant]:checked").value);

  function atDefault(variant) {
    const place = data.steps.indexOf(data.variants[variant].default_steps);
    steps.value = String(place < 0 ? data.steps.length - 1 : place);
  }

  function cell(text, kind = "td") {
    const made = document.createElement(kind);
    made.textContent = text;
    if (kind === "th") made.scope = "row";
    return made;
  }

  function show() {
    const { columns, rows } = data.sprite;
    const variant = data.variants[chosen()];
    const index = (chosen() * data.sigmas.length + Number(blur.value)) * columns + Number(steps.value);
    const frame = data.frames[index];
    const words = `K\u00a0=\u00a0${frame.steps}${frame.steps === variant.default_steps ? " (default)" : ""}`;
    at("pmt-steps-value").textContent = words;
    steps.setAttribute("aria-valuetext", words);
    at("pmt-blur-value").textContent = attack(frame.sigma);
    blur.setAttribute("aria-valuetext", attack(frame.sigma));

    const picture = at("pmt-picture");
    const place = (part, of) => (of > 1 ? (100 * part) / (of - 1) : 0);
    picture.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
    picture.style.backgroundPosition =
      `${place(index % columns, columns)}% ${place(Math.floor(index / columns), rows)}%`;
    const made = frame.sigma === null ? "Upload" : frame.sigma === 0 ? "Upload, contrast restored" : "Upload, blurred";
    at("pmt-what").textContent = `${made}: ${variant.title}, ${words}`;
    picture.setAttribute("aria-label", `${made} by ${variant.title} after ${frame.steps} steps`);

    const others = data.networks.filter((network) => !network.authorised);
    const accepts = (network) => network.threshold !== null && frame.cosine[network.name] > network.threshold;
    const service = data.networks.find((network) => network.authorised);
    const mean = others.reduce((sum, network) => sum + frame.cosine[network.name], 0) / others.length;
    at("pmt-summary").textContent =
      `SSIM ${two(frame.ssim)}. The service: cosine ${two(frame.cosine[service.name])}, ` +
      `${accepts(service) ? "accepts" : "does not accept"}. The other networks: mean cosine ${two(mean)}, ` +
      `${others.filter(accepts).length} of ${others.length} accept.`;
    at("pmt-networks").replaceChildren(
      ...data.networks.map((network) => {
        const row = document.createElement("tr");
        row.append(
          cell(network.name + (network.authorised ? " (the service)" : ""), "th"),
          cell(two(frame.cosine[network.name])),
          cell(network.threshold === null ? "none" : two(network.threshold)),
          cell(network.threshold === null ? "" : accepts(network) ? "yes" : "no"),
        );
        return row;
      }),
    );
  }

  root.addEventListener("input", (event) => {
    if (event.target.name === "variant") atDefault(chosen());
    show();
  });
  root.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  // A browser that goes back restores the controls; what they show has to fit.
  window.addEventListener("pageshow", show);
  atDefault(0);
  show();
  root.hidden = false;
  at("pmt-static").hidden = true;
});
