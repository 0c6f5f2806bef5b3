"use strict";
// The viewer: which crop and which two versions of it are on the stage, and the keys for everything.

let viewersEnd = new AbortController();

/** Also called again after the crops of the page were replaced: the old viewer lets go of the page first. */
function setUpViewer() {
  viewersEnd.abort();
  viewersEnd = new AbortController();
  const { signal } = viewersEnd;
  const on = (target, type, listener) => target.addEventListener(type, listener, { signal });
  const viewer = one("#viewer");
  if (!viewer) return;
  const element = one("#stage");
  const sides = {
    a: { image: one("#image-a"), choice: one("#choose-a"), score: one("#score-a") },
    b: { image: one("#image-b"), choice: one("#choose-b"), score: one("#score-b") },
  };
  const crops = all(".crop");
  const shown = { crop: null, tiles: [], a: 0, b: 0 };
  const pixels = setUpPixels(one("#readout"));
  const imageOf = (place) => one("img", shown.tiles[place]);
  const labelOf = (place) => shown.tiles[place]?.dataset.label;

  const pointAt = (crop, x, y) => {
    const onStage = crop === shown.crop;
    pixels.point(crop, x, y, onStage ? { viewer, a: imageOf(shown.a), b: imageOf(shown.b) } : null);
  };
  const showWindow = (view) => {
    if (!shown.crop) return;
    one("#zoom").textContent = `${Number(view.zoom.toFixed(1))}\u00d7`;
    for (const [id, at] of [["only-a", 100], ["both", 50], ["only-b", 0]]) {
      one(`#${id}`).setAttribute("aria-pressed", String(view.at === at));
    }
    for (const crop of crops) crop.classList.toggle("windowed", crop === shown.crop && view.zoom > 1);
    // In full screen the viewer stays in the crop it was opened from.
    for (const place of [shown.crop, viewer]) {
      for (const name of ["x", "y", "zoom"]) place.style.setProperty(`--window-${name}`, view[name]);
    }
    memory.set("view", JSON.stringify(view));
  };
  const stage = setUpStage(element, {
    signal,
    onPoint: (x, y) => pointAt(shown.crop, x, y),
    onLeave: pixels.clear,
    onView: showWindow,
  });

  const flip = (isFlipped) => element.classList.toggle("flipped", isFlipped);
  const differ = (isDiffering) => {
    element.classList.toggle("differing", isDiffering);
    one("#show-difference").setAttribute("aria-pressed", String(isDiffering));
    memory.set("differing", String(isDiffering));
  };
  const toggleDifference = () => differ(!element.classList.contains("differing"));
  const toggleSide = () => stage.placeDivider(stage.view.at > 50 ? 0 : 100);
  const reset = () => {
    stage.restore(null);
    differ(false);
  };

  const show = () => {
    for (const [name, side] of Object.entries(sides)) {
      const tile = shown.tiles[shown[name]];
      side.image.src = one("img", tile).src;
      side.choice.value = String(shown[name]);
      side.score.textContent = tile.dataset.score || tile.dataset.note;
      side.score.classList.toggle("long", !tile.dataset.score);
    }
    for (const tile of all(".tile")) tile.classList.remove("as-a", "as-b");
    shown.tiles[shown.a].classList.add("as-a");
    shown.tiles[shown.b].classList.add("as-b");
    memory.set("crop", shown.crop.dataset.key);
    memory.set("a", labelOf(shown.a));
    memory.set("b", labelOf(shown.b));
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
    viewer.style.setProperty("--aspect", crop.dataset.aspect);
    viewer.classList.toggle("wide", crop.dataset.kind === "frames");
    one("#which").textContent = `${crops.indexOf(crop) + 1} of ${crops.length}`;
    one("#what").textContent = crop.dataset.title;
    settle();
    pixels.clear();
    show();
    // A window of one picture means nothing in another.
    stage.placeWindow(1, 0, 0);
  };
  // A full-screen element that is moved in the page would fall out of full screen.
  const settle = () => {
    if (!isFull() && viewer.parentElement !== shown.crop) shown.crop.append(viewer);
  };

  const choose = (name, place) => {
    if (!shown.tiles[place]) return;
    shown[name] = place;
    show();
  };
  const turn = (stride) => {
    const before = element.getBoundingClientRect();
    const next = (crops.indexOf(shown.crop) + stride + crops.length) % crops.length;
    open(crops[next], labelOf(shown.a), labelOf(shown.b));
    // The viewer has moved; it stays where the reader looks.
    const isSeen = before.bottom > 0 && before.top < innerHeight;
    if (isSeen && !isFull()) scrollBy({ top: element.getBoundingClientRect().top - before.top, behavior: "instant" });
  };

  const isFull = () => viewer.classList.contains("full");
  const fill = (isFilling) => {
    viewer.classList.toggle("full", isFilling);
    one("#fill").setAttribute("aria-pressed", String(isFilling));
    // Without the permission to fill the screen it fills the window.
    if (isFilling) viewer.requestFullscreen?.().catch(() => {});
    else if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
    settle();
    element.focus({ preventScroll: !isFilling });
    if (!isFilling) element.scrollIntoView({ block: "nearest" });
  };
  on(document, "fullscreenchange", () => {
    if (!document.fullscreenElement && isFull()) fill(false);
  });

  for (const picture of all(".picture")) {
    const crop = picture.closest(".crop");
    on(picture, "click", () => {
      const before = picture.getBoundingClientRect().top;
      if (crop !== shown.crop) open(crop, labelOf(shown.a), null);
      choose("b", Number(picture.dataset.tile));
      // The viewer has moved here; the clicked picture stays where it was under the pointer.
      scrollBy({ top: picture.getBoundingClientRect().top - before, behavior: "instant" });
    });
    on(picture, "pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      pointAt(crop, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
    on(picture, "pointerleave", pixels.clear);
  }
  for (const [name, { choice }] of Object.entries(sides)) {
    on(choice, "change", () => choose(name, Number(choice.value)));
  }

  const hold = one("#flip");
  on(hold, "pointerdown", (event) => {
    hold.setPointerCapture(event.pointerId);
    flip(true);
  });
  for (const end of ["pointerup", "pointercancel", "blur"]) on(hold, end, () => flip(false));
  on(hold, "contextmenu", (event) => event.preventDefault());
  on(hold, "keydown", (event) => {
    if (event.key === " " || event.key === "Enter") flip(true);
  });
  on(hold, "keyup", () => flip(false));

  const actions = {
    "show-difference": toggleDifference,
    "only-a": () => stage.placeDivider(100),
    both: () => stage.placeDivider(50),
    "only-b": () => stage.placeDivider(0),
    "zoom-in": () => stage.zoomTo(stage.view.zoom * ZOOM_STEP),
    "zoom-out": () => stage.zoomTo(stage.view.zoom / ZOOM_STEP),
    reset,
    fill: () => fill(!isFull()),
    previous: () => turn(-1),
    next: () => turn(1),
  };
  for (const [id, act] of Object.entries(actions)) on(one(`#${id}`), "click", act);

  // What the keyboard has moved to the middle of the stage is what the linked cursor shows.
  const pointAtMiddle = () => {
    const { zoom, x, y } = stage.view;
    pointAt(shown.crop, x + 0.5 / zoom, y + 0.5 / zoom);
  };
  const panBy = (x, y) => {
    stage.pan(x, y);
    pointAtMiddle();
  };
  const keys = {
    d: toggleDifference,
    t: toggleSide,
    r: reset,
    "+": () => { actions["zoom-in"](); pointAtMiddle(); },
    "-": () => { actions["zoom-out"](); pointAtMiddle(); },
    "[": actions.previous,
    p: actions.previous,
    "]": actions.next,
    n: actions.next,
    "?": () => { one("#keys").open = !one("#keys").open; },
  };
  keys["="] = keys["+"];
  const pans = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };

  on(document, "keydown", (event) => {
    const isTyping = event.target instanceof Element && event.target.closest("select, input, textarea");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1];
    if (event.shiftKey && event.key in pans && stage.view.zoom > 1) {
      event.preventDefault();
      panBy(...pans[event.key]);
    } else if (key === "enter" && (event.target === element || event.target === document.body)) fill(!isFull());
    else if (key === "escape" && isFull()) fill(false);
    else if (key === "f") flip(true);
    else if (key in keys && !(event.repeat && (key === "d" || key === "t"))) keys[key]();
    else if (digit) choose(event.shiftKey ? "a" : "b", shown.tiles.findIndex((tile) => tile.dataset.shortcut === digit));
  });
  on(document, "keyup", (event) => {
    if (event.key.toLowerCase() === "f") flip(false);
  });
  on(window, "blur", () => flip(false));

  let stored = null;
  try { stored = JSON.parse(memory.get("view")); } catch { /* as if nothing was stored */ }
  differ(memory.get("differing") === "true");
  open(crops.find((crop) => crop.dataset.key === memory.get("crop")) ?? crops[0], memory.get("a"), memory.get("b"));
  stage.restore(stored);
}

// A page that follows a running sweep gets new pictures.
const picturesOf = () => all(".picture img").map((image) => image.src).join();
let picturesBefore = picturesOf();
document.addEventListener("srloss:updated", () => {
  const now = picturesOf();
  if (now !== picturesBefore) setUpViewer();
  picturesBefore = now;
});
setUpViewer();
