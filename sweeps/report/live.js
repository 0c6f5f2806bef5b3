"use strict";
// The served page follows the sweep. What the server sent before is compared with what it sends now, and only the
// differences reach the page: whatever the reader has changed since (order of rows, zoom, open crop) stays as it is.

const SILENT_MS = 40000;
const AGAIN_MS = 3000;

function setUpFollowing() {
  let before = document.body.cloneNode(true);
  let refocus = null;
  // Of each node that the server sent: the node of the page that stands for it.
  const shown = new WeakMap();
  const address = location.pathname.replace(/\/$/, "");

  const pair = (sent, live) => {
    shown.set(sent, live);
    sent.childNodes.forEach((child, place) => pair(child, live.childNodes[place]));
  };
  pair(before, document.body);

  const isBlank = (node) => node.nodeType === Node.TEXT_NODE && !node.data.trim();
  const isOurs = (node) => node.nodeName === "SCRIPT" && node.type !== "application/json";
  const nameOf = (node) => {
    if (node.nodeType !== Node.ELEMENT_NODE) return String(node.nodeType);
    const own = node.id || node.dataset.key || node.dataset.label || node.dataset.loss;
    return `${node.nodeName} ${own || (node.nodeName === "TR" && node.cells[0]?.dataset.value) || ""}`;
  };

  const updateAttributes = (old, fresh, live) => {
    for (const name of new Set([...old.getAttributeNames(), ...fresh.getAttributeNames()])) {
      const [was, is] = [old.getAttribute(name), fresh.getAttribute(name)];
      if (was === is) continue;
      if (name === "class") {
        live.classList.remove(...old.classList);
        live.classList.add(...fresh.classList);
      } else if (is === null) live.removeAttribute(name);
      else live.setAttribute(name, is);
    }
  };

  const byId = (root) => new Map([...root.querySelectorAll("[id]")].map((element) => [element.id, element]));
  let known = byId(before);

  // A node that is new, holding whatever of it stood elsewhere before.
  const create = (fresh) => {
    const old = fresh.id ? known.get(fresh.id) : undefined;
    if (old && old.nodeName === fresh.nodeName) return update(old, fresh);
    const live = document.importNode(fresh, false);
    shown.set(fresh, live);
    if (live.dataset && "whole" in live.dataset) replaced.push(live.id);
    for (const child of fresh.childNodes) {
      const inner = create(child);
      if (!inner.isConnected) live.append(inner);
    }
    return live;
  };

  // What scripts have redrawn is not patched but replaced, and drawn again by them: `detail` of the event tells which.
  let replaced = [];
  const replace = (fresh, live) => {
    const path = [];
    for (let at = document.activeElement; live.contains(at) && at !== live; at = at.parentElement) {
      path.unshift([...at.parentElement.children].indexOf(at));
    }
    const next = document.importNode(fresh, true);
    pair(fresh, next);
    live.replaceWith(next);
    replaced.push(fresh.id);
    if (path.length) refocus = () => path.reduce((at, place) => at?.children[place], next)?.focus({ preventScroll: true });
    return next;
  };
  const remap = (old, fresh) => {
    shown.set(fresh, shown.get(old));
    fresh.childNodes.forEach((child, place) => remap(old.childNodes[place], child));
  };

  const update = (old, fresh) => {
    const live = shown.get(old);
    if (fresh.nodeType === Node.ELEMENT_NODE && "whole" in fresh.dataset) {
      if (!old.isEqualNode(fresh)) return replace(fresh, live);
      remap(old, fresh);
      return live;
    }
    shown.set(fresh, live);
    if (fresh.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) live.data = fresh.data;
      return live;
    }
    updateAttributes(old, fresh, live);
    updateChildren(old, fresh, live);
    return live;
  };

  const updateChildren = (old, fresh, live) => {
    const left = new Map();
    [...old.childNodes].forEach((child, place) => {
      if (isOurs(child) || isBlank(child)) return;
      left.set(nameOf(child), [...(left.get(nameOf(child)) ?? []), { child, place }]);
    });
    let last = -1;
    let isReordered = false;
    const wanted = [];
    for (const child of fresh.childNodes) {
      if (isOurs(child) || isBlank(child)) continue;
      const match = left.get(nameOf(child))?.shift();
      if (!match) {
        wanted.push({ node: create(child), isNew: true });
        continue;
      }
      isReordered ||= match.place < last;
      last = match.place;
      wanted.push({ node: update(match.child, child), isNew: false });
    }
    for (const { child } of [...left.values()].flat()) {
      // What has an id and lives on elsewhere in the new page is found a place there, or has one.
      if (!(child.id && arriving.has(child.id))) shown.get(child).remove();
    }
    place(wanted, live, isReordered);
  };

  // New nodes go behind their neighbour; the others only move where the server has changed their order.
  const place = (wanted, live, isReordered) => {
    let neighbour = null;
    for (const { node, isNew } of wanted) {
      const isElsewhere = node.parentNode !== live && node.isConnected;
      if (isElsewhere) continue;
      const next = neighbour ? neighbour.nextSibling : live.firstChild;
      if ((isNew || isReordered) && node !== next) live.insertBefore(node, next);
      neighbour = node;
    }
  };

  let arriving = new Map();
  let numScripts = 0;
  addEventListener("DOMContentLoaded", () => { numScripts = document.scripts.length; });
  const patch = (text) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    // A report in the place of a message: it needs scripts that are not here.
    if (page.scripts.length !== numScripts) { location.reload(); return; }
    const focus = document.activeElement;
    refocus = null;
    replaced = [];
    arriving = byId(page.body);
    update(before, page.body);
    for (const [id, fresh] of arriving) {
      const live = shown.get(fresh);
      if (live && !live.isConnected) shown.get(fresh.parentNode)?.append(live);
    }
    before = page.body;
    known = arriving;
    if (document.title !== page.title) document.title = page.title;
    // Moving an element takes the focus from it.
    if (focus !== document.activeElement && focus?.isConnected) focus.focus({ preventScroll: true });
    document.dispatchEvent(new CustomEvent("srloss:updated", { detail: replaced }));
    refocus?.();
  };

  const notice = document.createElement("p");
  notice.id = "connection";
  notice.setAttribute("role", "status");
  notice.hidden = true;
  document.body.append(notice);
  const say = (words) => {
    notice.hidden = !words;
    if (notice.textContent !== words) notice.textContent = words;
  };
  let problem = "";
  const calm = () => say(problem && document.body.dataset.sweep !== "message" ? `Not up to date: the sweep cannot be read (${problem}).` : "");
  const LOST = "Connection lost, trying again. The sweep is not touched by that.";
  const SHUT = "This dashboard was started anew: open the address that it has printed.";

  let version = document.body.dataset.version;
  let wanted = version;
  let isAsking = false;
  let timer = 0;
  const ask = async () => {
    if (isAsking) return;
    isAsking = true;
    try {
      while (version !== wanted) {
        const answer = await fetch(address || "/", { cache: "no-store" });
        if (answer.status === 403) { say(SHUT); return; }
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        const text = await answer.text();
        const is = answer.headers.get("srloss-version");
        if (is !== version) patch(text);
        version = is;
        // Newer than what was announced: the announcement is on its way.
        wanted = is;
      }
      calm();
    } catch {
      say(LOST);
      setTimeout(ask, AGAIN_MS);
    } finally {
      isAsking = false;
    }
  };

  let events = null;
  const listen = () => {
    events?.close();
    events = new EventSource(address === "/sweeps" ? "/events" : `${address}/events`);
    const heard = (event) => {
      clearTimeout(timer);
      timer = setTimeout(listen, SILENT_MS);
      wanted = event.data || wanted;
      ask();
    };
    events.addEventListener("message", heard);
    events.addEventListener("alive", heard);
    events.addEventListener("problem", (event) => {
      problem = event.data;
      calm();
    });
    events.addEventListener("error", async () => {
      say(LOST);
      if (events.readyState !== EventSource.CLOSED) return;
      // Refused for good, by the browser's reckoning: a tunnel without a server behind it, or another token.
      const answer = await fetch(address || "/", { method: "HEAD", cache: "no-store" }).catch(() => null);
      if (answer?.status === 403) say(SHUT);
      clearTimeout(timer);
      timer = setTimeout(listen, AGAIN_MS);
    });
    clearTimeout(timer);
    timer = setTimeout(listen, SILENT_MS);
  };
  listen();
}

setUpFollowing();
