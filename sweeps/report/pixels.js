"use strict";
// The linked cursor: the pixel under the pointer, marked in all versions of a crop, with its value in A and in B.

const READOUT_HINT = "Point at a picture: the same pixel is marked in all of them.";
const NOT_READABLE = "No values: a page opened from the disk may show the pictures beside it, but not read them.";

function setUpPixels(readout) {
  const known = new WeakMap();
  const sizeOf = (crop) => {
    const images = all(".picture img", crop);
    return [Math.max(1, ...images.map((i) => i.naturalWidth)), Math.max(1, ...images.map((i) => i.naturalHeight))];
  };

  // null: the browser does not let a page that was opened from the disk read pictures that lie beside it.
  const pixelsOf = (image) => {
    if (known.has(image) || !image.naturalWidth) return known.get(image) ?? null;
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    let pixels = null;
    try { pixels = context.getImageData(0, 0, width, height); } catch { /* not readable */ }
    known.set(image, pixels);
    return pixels;
  };
  const valueAt = (image, x, y) => {
    const pixels = pixelsOf(image);
    if (!pixels) return null;
    const at = 4 * (Math.floor(y * pixels.height) * pixels.width + Math.floor(x * pixels.width));
    return [...pixels.data.slice(at, at + 3)];
  };

  const line = (name, value) => {
    const row = document.createElement("span");
    const chip = document.createElement("i");
    if (name.length === 1) chip.style.backgroundColor = `rgb(${value.join(" ")})`;
    row.append(name.padEnd(3, "\u2007"), chip, value.map((part) => String(part).padStart(4, "\u2007")).join(""));
    return row;
  };
  const show = (x, y, column, row, a, b) => {
    const values = [valueAt(a, x, y), valueAt(b, x, y)];
    const where = document.createElement("b");
    where.textContent = `x ${column}, y ${row}`;
    if (values.includes(null)) {
      readout.replaceChildren(where, NOT_READABLE);
      return;
    }
    const difference = values[1].map((part, place) => part - values[0][place]);
    readout.replaceChildren(where, line("A", values[0]), line("B", values[1]), line("B\u2212A", difference));
  };

  const clear = () => {
    for (const place of all(".pointed")) place.classList.remove("pointed");
    readout.textContent = READOUT_HINT;
  };
  /** x and y in parts of the picture; `stage` has the viewer and the images a and b, null where it shows another crop. */
  const point = (crop, x, y, stage) => {
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return clear();
    const [width, height] = sizeOf(crop);
    const [column, row] = [Math.floor(x * width), Math.floor(y * height)];
    const [middleX, middleY] = [(column + 0.5) / width, (row + 0.5) / height];
    for (const place of all(".pointed")) place.classList.remove("pointed");
    // One place for all versions: forty marks move without being touched one by one.
    for (const place of stage ? [crop, stage.viewer] : [crop]) {
      place.classList.add("pointed");
      for (const [name, value] of [["x", middleX], ["y", middleY], ["pixel", 1 / width]]) {
        place.style.setProperty(`--${name}`, value);
      }
    }
    if (stage) show(middleX, middleY, column, row, stage.a, stage.b);
  };
  clear();
  return { clear, point };
}
