"use strict";
// Clip by clip: any loss against any other, as two small tables and a scatter of paired scores.

function setUpClips() {
  const place = one("#clip-scatter");
  if (!place) return;
  const choices = { a: one("#clips-a"), b: one("#clips-b") };
  let data, losses, baseline, sign;
  const number = (value) => value.toFixed(data.decimals).replace(/^-(0\.?0*)$/, "$1").replace("-", "\u2212");
  const signed = (value) => (Number(value.toFixed(data.decimals)) > 0 ? "+" : "") + number(value) + (data.unit ? `\u00a0${data.unit}` : "");
  const make = (name, words = "", properties = {}) => Object.assign(document.createElement(name), { textContent: words }, properties);

  const read = () => {
    data = JSON.parse(one("#clip-numbers").textContent);
    const fine = 10 ** (data.decimals + 1);
    losses = new Map(data.losses.map((loss) => [loss.key, { ...loss, values: loss.values.map((value) => value / fine) }]));
    baseline = losses.get("b");
    sign = data.up ? 1 : -1;
    for (const [side, select] of Object.entries(choices)) {
      const offered = [...losses.values()].filter(({ key }) => side === "b" || key !== "b");
      select.replaceChildren(...offered.map(({ key, name }) => make("option", name, { value: key })));
    }
    const [first, second] = [...losses.keys()];
    const [a, b] = (memory.get("clips") ?? "").split(",");
    choices.a.value = losses.has(a) && a !== "b" ? a : first;
    choices.b.value = losses.has(b) ? b : second;
    show();
  };

  // A picture of the clip, where the page has one: shown again, not stored twice.
  const picture = (index, key) => {
    const crop = all('.crop[data-kind="crop"]').find((found) => found.dataset.title === data.clips[index]);
    return crop && one(`figure[data-loss="${key}"] .picture`, crop);
  };

  const thumbnail = (index, key) => {
    const large = picture(index, key);
    const image = large && one("img", large);
    if (!image) return [];
    const button = make("button", "", { type: "button", className: "thumbnail", title: "Compare in large" });
    button.append(Object.assign(new Image(), { src: image.src, alt: losses.get(key).name }));
    button.addEventListener("click", () => {
      large.click();
      large.closest(".crop").scrollIntoView({ block: "center" });
    });
    return [button];
  };

  const mark = (index, isOn) => {
    for (const point of all(`[data-clip="${index}"]`, place)) point.classList.toggle("marked", isOn);
  };

  const fill = (table, a, b) => {
    const ahead = a.values.map((value, index) => sign * (value - b.values[index]));
    const order = ahead.map((_, index) => index).sort((x, y) => ahead[y] - ahead[x]);
    const first = Math.min(3, Math.ceil(order.length / 2)), last = Math.min(3, order.length - first);
    const groups = [["best", order.slice(0, first)], ["worst", order.slice(order.length - last).reverse()]];
    table.tHead.rows[0].cells[2].textContent = a.name;
    table.tHead.rows[0].cells[3].textContent = b.name;
    one(".pair-name", table).textContent = `${a.name} against ${b.name}`;
    one("caption .quiet", table).textContent =
      `${a.name} is ahead on ${ahead.filter((value) => value > 0).length} of ${ahead.length} clips.`;
    groups.forEach(([words, indices], group) => {
      table.tBodies[group].replaceChildren(...indices.map((index, row) => {
        const line = make("tr");
        if (row === 0) line.append(make("th", words, { scope: "rowgroup", rowSpan: indices.length }));
        const clip = make("td"), inside = make("div", "", { className: "clip" });
        inside.append(...thumbnail(index, a.key), ...thumbnail(index, b.key), make("span", data.clips[index]));
        clip.append(inside);
        const cells = [number(a.values[index]), number(b.values[index]), signed(a.values[index] - b.values[index])];
        line.append(clip, ...cells.map((words) => make("td", words, { className: "num" })));
        line.addEventListener("pointerenter", () => mark(index, true));
        line.addEventListener("pointerleave", () => mark(index, false));
        return line;
      }));
    });
  };

  const element = (name, attributes = {}, words = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = words;
    return made;
  };

  const roundTicks = (low, high) => {
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
    const decimals = Math.max(0, Math.ceil(-Math.log10(step) + (step / power === 2.5 ? 1 : 0) - 1e-9));
    const found = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) found.push([tick, tick.toFixed(decimals).replace("-", "\u2212")]);
    return found;
  };

  const colourOf = (key) => (key === "b" ? "sb" : `s${Number(key) % 7}`);

  const draw = (a, b) => {
    const both = [...a.values, ...b.values];
    const pad = (Math.max(...both) - Math.min(...both)) * 0.05 || 0.5;
    const low = Math.min(...both) - pad, high = Math.max(...both) + pad;
    const size = 420, left = 52, top = 26, right = size - 12, bottom = size - 46;
    const x = (value) => left + ((value - low) / (high - low)) * (right - left);
    const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
    const svg = element("svg", { viewBox: `0 0 ${size} ${size}`, width: size, height: size, class: "chart scatter", role: "img", "aria-label": `${data.label} of each clip, ${a.name} against ${b.name}` });
    for (const [tick, words] of roundTicks(low, high)) {
      svg.append(element("line", { x1: left, x2: right, y1: y(tick), y2: y(tick), class: "grid" }));
      svg.append(element("text", { x: left - 8, y: y(tick) + 4, class: "tick", "text-anchor": "end" }, words));
      svg.append(element("line", { x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5, class: "axis" }));
      svg.append(element("text", { x: x(tick), y: bottom + 19, class: "tick", "text-anchor": "middle" }, words));
    }
    const short = (text) => (text.length > 40 ? `${text.slice(0, 39)}\u2026` : text);
    svg.append(
      element("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
      element("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), class: "equal" }),
      element("text", { x: 2, y: 13, class: "title" }, short(`A, ${a.name}`)),
      element("text", { x: right, y: size - 4, class: "title", "text-anchor": "end" }, short(`B, ${b.name}`)),
    );
    a.values.forEach((value, index) => {
      const other = b.values[index], isAhead = sign * (value - other) > 0;
      const point = element("circle", { cx: x(other).toFixed(1), cy: y(value).toFixed(1), r: 4, "data-clip": index, class: `mark ${isAhead ? colourOf(a.key) : `open ${colourOf(b.key)}`}` });
      point.append(element("title", {}, `${data.clips[index]}: ${number(value)} against ${number(other)}, ${signed(value - other)}`));
      svg.append(point);
    });
    one("svg", place)?.remove();
    place.prepend(svg);
    const side = data.up ? "above" : "below";
    one("#clip-summary").textContent = `One mark per clip. Filled, ${side} the line of equal scores: A, ${a.name}, is better; open: B, ${b.name}.`;
  };

  const show = () => {
    const a = losses.get(choices.a.value), b = losses.get(choices.b.value);
    for (const table of all("table.clips")) fill(table, a, table.dataset.against === "baseline" ? baseline : b);
    draw(a, b);
    memory.set("clips", `${a.key},${b.key}`);
  };
  for (const select of Object.values(choices)) select.addEventListener("change", show);
  document.addEventListener("srloss:updated", read);
  read();
}

setUpClips();
document.addEventListener("srloss:updated", ({ detail }) => { if (detail.includes("clips")) setUpClips(); });
