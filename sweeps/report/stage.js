"use strict";
// The stage: A left of a divider, B right of it, both seen through one window that zooms and pans.

const MAX_ZOOM = 16;
const ZOOM_STEP = Math.SQRT2;
const PAGE_SCROLLS_MS = 250;

function setUpStage(stage, { signal, onPoint, onLeave, onView }) {
  const images = all("img", stage);
  // x and y are the left top corner of the window, in parts of the picture.
  const view = { zoom: 1, x: 0, y: 0, at: 50 };
  const pointers = new Map();
  let drag = "";
  let dividerBefore = 50;
  let scrolledAt = -Infinity;

  const placeWindow = (zoom, x, y) => {
    view.zoom = Math.min(MAX_ZOOM, Math.max(1, zoom));
    const most = 1 - 1 / view.zoom;
    view.x = Math.min(most, Math.max(0, x));
    view.y = Math.min(most, Math.max(0, y));
    // Percentages of the picture's own box: the window stays the same when the stage changes its size.
    const moved = `translate(${-100 * view.zoom * view.x}%, ${-100 * view.zoom * view.y}%) scale(${view.zoom})`;
    for (const image of images) image.style.transform = moved;
    stage.classList.toggle("zoomed", view.zoom > 1);
    onView(view);
  };
  const placeDivider = (percent) => {
    view.at = Math.min(100, Math.max(0, percent));
    stage.style.setProperty("--at", `${view.at}%`);
    stage.setAttribute("aria-valuenow", String(Math.round(view.at)));
    stage.setAttribute("aria-valuetext", `A on the left ${Math.round(view.at)} percent`);
    onView(view);
  };

  // Where an event is on the stage, in parts of it; and in parts of the picture.
  const placeOf = (event) => {
    const box = stage.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const inPicture = ([x, y]) => [view.x + x / view.zoom, view.y + y / view.zoom];

  const zoomTo = (zoom, [x, y] = [0.5, 0.5]) => {
    const [pictureX, pictureY] = inPicture([x, y]);
    const next = Math.min(MAX_ZOOM, Math.max(1, zoom));
    placeWindow(next, pictureX - x / next, pictureY - y / next);
  };
  const pan = (x, y) => placeWindow(view.zoom, view.x - x / view.zoom, view.y - y / view.zoom);

  // Near the divider a drag moves it; elsewhere too while there is nothing to pan.
  const dragAt = (event) => {
    const isHidden = stage.classList.contains("flipped") || stage.classList.contains("differing");
    const box = stage.getBoundingClientRect();
    const distance = Math.abs(event.clientX - box.left - (box.width * view.at) / 100);
    const isNear = distance <= (event.pointerType === "touch" ? 28 : 14);
    if (view.zoom > 1 && (isHidden || !isNear)) return "pan";
    return isHidden ? "" : "divider";
  };
  const spanOfPinch = () => {
    const [[x, y], [otherX, otherY]] = [...pointers.values()];
    const box = stage.getBoundingClientRect();
    const distance = Math.hypot((x - otherX) * box.width, (y - otherY) * box.height);
    return { at: [(x + otherX) / 2, (y + otherY) / 2], distance: Math.max(distance, 1) };
  };

  const follow = (event) => {
    const before = pointers.get(event.pointerId);
    const now = placeOf(event);
    if (pointers.size === 2) {
      const old = spanOfPinch();
      pointers.set(event.pointerId, now);
      const pinch = spanOfPinch();
      pan(pinch.at[0] - old.at[0], pinch.at[1] - old.at[1]);
      zoomTo((view.zoom * pinch.distance) / old.distance, pinch.at);
      return;
    }
    pointers.set(event.pointerId, now);
    if (drag === "divider") placeDivider(now[0] * 100);
    if (drag === "pan") pan(now[0] - before[0], now[1] - before[1]);
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || pointers.size === 2) return;
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, placeOf(event));
    if (pointers.size === 2) {
      // The first finger was the beginning of a pinch and not meant for the divider.
      if (drag === "divider") placeDivider(dividerBefore);
      drag = "";
      return;
    }
    dividerBefore = view.at;
    drag = dragAt(event);
    stage.classList.toggle("panning", drag === "pan");
    if (drag === "divider" && view.zoom === 1) follow(event);
  }, { signal });
  stage.addEventListener("pointermove", (event) => {
    if (pointers.has(event.pointerId)) follow(event);
    else stage.dataset.drag = dragAt(event);
    onPoint(...inPicture(placeOf(event)));
  }, { signal });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      pointers.delete(event.pointerId);
      drag = "";
      stage.classList.remove("panning");
    }, { signal });
  }
  stage.addEventListener("pointerleave", onLeave, { signal });
  stage.addEventListener("dblclick", (event) => {
    if (view.zoom > 1) placeWindow(1, 0, 0);
    else zoomTo(4, placeOf(event));
  }, { signal });

  // A wheel that scrolls the page past the stage, or leaves it downwards, goes on scrolling the page.
  window.addEventListener("scroll", () => { scrolledAt = performance.now(); }, { passive: true, signal });
  stage.addEventListener("wheel", (event) => {
    const isPassing = performance.now() - scrolledAt < PAGE_SCROLLS_MS;
    if (view.zoom === 1 && !event.ctrlKey && (event.deltaY > 0 || isPassing)) return;
    event.preventDefault();
    // A trackpad's pinch comes as a wheel with Ctrl, in small steps; some mice count lines.
    const pace = event.ctrlKey ? 0.01 : event.deltaMode === 1 ? 0.06 : 0.0025;
    zoomTo(view.zoom * Math.exp(-pace * event.deltaY), placeOf(event));
  }, { passive: false, signal });

  stage.addEventListener("keydown", (event) => {
    if (event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {
      ArrowLeft: view.at - 2, ArrowDown: view.at - 2, ArrowRight: view.at + 2, ArrowUp: view.at + 2,
      PageDown: view.at - 10, PageUp: view.at + 10, Home: 0, End: 100,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    placeDivider(moves[event.key]);
  }, { signal });

  const restore = (stored) => {
    placeDivider(Number.isFinite(stored?.at) ? stored.at : 50);
    placeWindow(...(Number.isFinite(stored?.zoom) ? [stored.zoom, stored.x, stored.y] : [1, 0, 0]));
  };
  return { view, pan, placeDivider, placeWindow, zoomTo, restore };
}
