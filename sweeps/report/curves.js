"use strict";
// The learning curves: along steps, samples, seconds or device time, and easy to hit with the mouse.

function setUpCurves() {
  const figure = one("#curves");
  if (!figure) return;
  const pairs = (d) => (d.match(/-?[\d.]+/g) ?? []).map(Number);
  const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y}`).join("L")}`;
  // A path as the server sent it, along steps; what stands in the page may have been laid along another axis since.
  const sent = (element) => {
    const d = element.getAttribute("d");
    if (d !== element.written) element.sent = d;
    return element.sent;
  };
  const write = (element, d) => {
    element.setAttribute("d", d);
    element.written = d;
  };
  const made = (line, name, where) => {
    if (!line[name]) {
      line[name] = line.cloneNode();
      line[name].setAttribute("class", name);
      line[name].removeAttribute("stroke-dasharray");
      line[where](line[name]);
    }
    return line[name];
  };

  // Of many losses the page has the edges of the bands apart, in thousandths of the height.
  const edgesOf = (svg, band, parts) => {
    if (band) return pairs(sent(band)).filter((_, index) => index % 2);
    const [top, bottom] = [Number(svg.dataset.top), Number(svg.dataset.bottom)];
    const ys = (parts ?? []).map((part) => Number((top + (part / 1000) * (bottom - top)).toFixed(1)));
    return [...ys.slice(0, ys.length / 2), ...ys.slice(ys.length / 2).reverse()];
  };

  const layCurve = (group, svg, places, bands) => {
    const line = one(".line", group), leader = one(".leader", group);
    const numbers = pairs(sent(line ?? leader));
    const points = numbers.flatMap((x, index) => (index % 2 ? [] : [[x, numbers[index + 1]]]));
    const [left, right] = [Number(svg.dataset.left), Number(svg.dataset.right)];
    const x = places.map((part) => left + (part / 1000) * (right - left));
    if (leader) {
      write(leader, path([[x.at(-1) + 6, points[0][1]], points[1]]));
      return;
    }
    const edges = edgesOf(svg, line.band ? null : one(".band", group), bands);
    write(line, path(points.map(([, y], index) => [x[index], y])));
    made(line, "hit", "after").setAttribute("d", line.written);
    if (edges.length) {
      const band = one(".band", group) ?? made(line, "band", "before");
      write(band, `${path(edges.map((y, index) => [x[index < x.length ? index : 2 * x.length - 1 - index], y]))}Z`);
    }
    for (const mark of all("[data-at]", group)) {
      mark.setAttribute("transform", `translate(${x[mark.dataset.at] - points[mark.dataset.at][0]})`);
    }
  };

  const drawTicks = (svg, ticks) => {
    const group = one(".x-ticks", svg);
    const [line, text] = [one("line", group), one("text", group)];
    if (!line) return;
    group.replaceChildren(...ticks.flatMap(([x, words]) => {
      const [mark, label] = [line.cloneNode(), text.cloneNode()];
      mark.setAttribute("x1", x);
      mark.setAttribute("x2", x);
      label.setAttribute("x", x);
      label.textContent = words;
      return [mark, label];
    }));
  };

  const show = (wanted) => {
    const axes = JSON.parse(one("#axes").textContent);
    const name = wanted in axes ? wanted : "steps";
    if (!axes[name]) return;
    const bands = axes.steps.bands ?? {};
    for (const svg of all("svg.curves", figure)) {
      for (const group of all(".series", svg)) {
        const key = group.dataset.loss;
        if (one(".line, .leader", group) && axes[name].x[key]) layCurve(group, svg, axes[name].x[key], bands[key]);
      }
      drawTicks(svg, axes[name].ticks[svg.closest(".for-narrow") ? "narrow" : "wide"]);
      one(".x-title", svg).textContent = axes[name].title;
    }
    for (const button of all("[data-axis]")) button.setAttribute("aria-pressed", String(button.dataset.axis === name));
    memory.set("axis", name);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-axis]");
    if (button) show(button.dataset.axis);
  });
  document.addEventListener("srloss:updated", () => show(memory.get("axis") ?? "steps"));
  show(memory.get("axis") ?? "steps");
}

setUpCurves();
