"use strict";
// The big picture: A left of a divider, B right of it, and their difference.

const DIFFERENCE_GAIN = 8;

function setUpViewer() {
  const viewer = one("#viewer");
  if (!viewer) return;
  const stage = one("#stage");
  const canvas = one("#difference");
  const sides = {
    a: { image: one("#image-a"), choice: one("#choose-a"), score: one("#score-a") },
    b: { image: one("#image-b"), choice: one("#choose-b"), score: one("#score-b") },
  };
  const shown = { crop: null, tiles: [], a: 0, b: 0, isDiffering: false };

  const placeDivider = (percent) => {
    const at = Math.min(100, Math.max(0, percent));
    stage.style.setProperty("--at", `${at}%`);
    stage.setAttribute("aria-valuenow", String(Math.round(at)));
    stage.setAttribute("aria-valuetext", `A on the left ${Math.round(at)} percent`);
  };
  const divider = () => Number(stage.getAttribute("aria-valuenow"));
  const flip = (isFlipped) => stage.classList.toggle("flipped", isFlipped);

  async function drawDifference() {
    canvas.hidden = !shown.isDiffering;
    stage.classList.toggle("differing", shown.isDiffering);
    one("#show-difference").setAttribute("aria-pressed", String(shown.isDiffering));
    if (!shown.isDiffering) return;
    const [a, b] = [shown.tiles[shown.a], shown.tiles[shown.b]].map((tile) => one("img", tile));
    await Promise.allSettled([a.decode(), b.decode()]);
    const width = Math.max(a.naturalWidth, b.naturalWidth, 1);
    const height = Math.max(a.naturalHeight, b.naturalHeight, 1);
    const pixelsOf = (image) => {
      const context = new OffscreenCanvas(width, height).getContext("2d");
      context.imageSmoothingEnabled = false;
      if (image.naturalWidth) context.drawImage(image, 0, 0, width, height);
      return context.getImageData(0, 0, width, height);
    };
    const [left, right] = [pixelsOf(a), pixelsOf(b)];
    // The array of an ImageData clamps to 0..255 by itself.
    for (let at = 0; at < left.data.length; at += 1) {
      left.data[at] = at % 4 === 3 ? 255 : DIFFERENCE_GAIN * Math.abs(left.data[at] - right.data[at]);
    }
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(left, 0, 0);
  }

  const show = () => {
    for (const [name, side] of Object.entries(sides)) {
      const tile = shown.tiles[shown[name]];
      side.image.src = one("img", tile).src;
      side.choice.value = String(shown[name]);
      side.score.textContent = tile.dataset.score;
    }
    for (const tile of all(".tile")) tile.classList.remove("as-a", "as-b");
    shown.tiles[shown.a].classList.add("as-a");
    shown.tiles[shown.b].classList.add("as-b");
    memory.set("crop", shown.crop.dataset.crop);
    memory.set("a", shown.tiles[shown.a].dataset.label);
    memory.set("b", shown.tiles[shown.b].dataset.label);
    drawDifference();
  };

  const placeOf = (label, otherwise) => {
    const found = shown.tiles.findIndex((tile) => tile.dataset.label === label);
    return found >= 0 ? found : Number(otherwise);
  };

  // A and B stay the same losses from crop to crop, though a crop may hold them in another order.
  const open = (crop, a, b) => {
    shown.crop = crop;
    shown.tiles = all(".tile", crop);
    for (const { choice } of Object.values(sides)) {
      choice.replaceChildren(...shown.tiles.map((tile, place) => new Option(tile.dataset.label, String(place))));
    }
    shown.a = placeOf(a, crop.dataset.a);
    shown.b = placeOf(b, crop.dataset.b);
    stage.style.aspectRatio = crop.dataset.aspect;
    if (viewer.parentElement !== crop) crop.append(viewer);
    show();
  };

  const choose = (name, place) => {
    if (!shown.tiles[place]) return;
    shown[name] = place;
    show();
  };

  for (const picture of all(".picture")) {
    picture.addEventListener("click", () => {
      const crop = picture.closest(".crop");
      const before = picture.getBoundingClientRect().top;
      if (crop !== shown.crop) open(crop, shown.tiles[shown.a].dataset.label, null);
      choose("b", Number(picture.dataset.tile));
      // The viewer has moved here; the clicked picture stays where it was under the pointer.
      scrollBy({ top: picture.getBoundingClientRect().top - before, behavior: "instant" });
    });
  }
  sides.a.choice.addEventListener("change", () => choose("a", Number(sides.a.choice.value)));
  sides.b.choice.addEventListener("change", () => choose("b", Number(sides.b.choice.value)));

  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    placeDivider(((event.clientX - box.left) / box.width) * 100);
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) follow(event);
  });
  stage.addEventListener("keydown", (event) => {
    const stride = event.shiftKey ? 10 : 2;
    const moves = {
      ArrowLeft: divider() - stride,
      ArrowDown: divider() - stride,
      ArrowRight: divider() + stride,
      ArrowUp: divider() + stride,
      PageDown: divider() - 10,
      PageUp: divider() + 10,
      Home: 0,
      End: 100,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    placeDivider(moves[event.key]);
  });

  const hold = one("#flip");
  hold.addEventListener("pointerdown", (event) => {
    hold.setPointerCapture(event.pointerId);
    flip(true);
  });
  for (const end of ["pointerup", "pointercancel", "blur"]) hold.addEventListener(end, () => flip(false));
  hold.addEventListener("contextmenu", (event) => event.preventDefault());
  hold.addEventListener("keydown", (event) => {
    if (event.key === " " || event.key === "Enter") flip(true);
  });
  hold.addEventListener("keyup", () => flip(false));
  const toggleDifference = () => {
    shown.isDiffering = !shown.isDiffering;
    drawDifference();
  };
  one("#show-difference").addEventListener("click", toggleDifference);

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target instanceof Element && event.target.closest("select, input, textarea");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "f") flip(true);
    if (key === "d" && !event.repeat) toggleDifference();
    if (/^[0-9]$/.test(key)) {
      choose("b", shown.tiles.findIndex((tile) => one("kbd", tile)?.textContent === key));
    }
  });
  document.addEventListener("keyup", (event) => {
    if (event.key.toLowerCase() === "f") flip(false);
  });
  window.addEventListener("blur", () => flip(false));

  const stored = all(".crop").find((crop) => crop.dataset.crop === memory.get("crop"));
  placeDivider(50);
  open(stored ?? one(".crop"), memory.get("a"), memory.get("b"));
}

setUpViewer();
