"use strict";
// Theme, highlight, sorting, copying.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

// A page that reloads itself while the sweep runs comes back as the reader left it. Storage may be forbidden on file://.
const memory = {
  key: (name) => `srloss:${document.body.dataset.sweep}:${name}`,
  get(name) {
    try { return sessionStorage.getItem(this.key(name)); } catch { return null; }
  },
  set(name, value) {
    try { sessionStorage.setItem(this.key(name), value); } catch { /* the page works without */ }
  },
};

function setUpTheme() {
  const button = one("#theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    button.textContent = isDark() ? "Light theme" : "Dark theme";
  };
  const stored = memory.get("theme");
  if (stored === "dark" || stored === "light") document.documentElement.dataset.theme = stored;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    memory.set("theme", document.documentElement.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

function setUpHighlight() {
  let lit = "";
  const dress = () => {
    for (const button of all("[data-pick]:not([title])")) {
      button.setAttribute("aria-pressed", "false");
      button.title = `Highlight ${one("span", button).textContent} everywhere`;
    }
  };
  dress();
  const light = (key) => {
    lit = all("[data-loss]").some((element) => element.dataset.loss === key) ? key : "";
    document.body.classList.toggle("has-lit", lit !== "");
    for (const element of all("[data-loss]")) element.classList.toggle("lit", element.dataset.loss === lit);
    for (const button of all("[data-pick]")) button.setAttribute("aria-pressed", String(button.dataset.pick === lit));
    memory.set("lit", lit);
  };
  document.addEventListener("click", (event) => {
    const picked = event.target.closest("[data-pick], .series[data-loss]");
    if (!picked) return;
    const key = picked.dataset.pick ?? picked.dataset.loss;
    light(key === lit ? "" : key);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && lit) light("");
  });
  const stored = memory.get("lit");
  if (stored) light(stored);
  document.addEventListener("srloss:updated", () => {
    dress();
    if (lit) light(lit);
  });
}

function setUpSorting() {
  const byValue = (one, other) => {
    const [a, b] = [Number(one), Number(other)];
    return Number.isFinite(a) && Number.isFinite(b) ? a - b : one.localeCompare(other, undefined, { numeric: true });
  };
  const sort = (heading, direction) => {
    const body = heading.closest("table").tBodies[0];
    const valueOf = (row) => row.cells[heading.cellIndex].dataset.value ?? row.cells[heading.cellIndex].textContent.trim();
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [valueOf(a), valueOf(b)];
      // What was not measured stays at the end in either direction.
      if (x === "" || y === "") return (x === "") - (y === "");
      return direction === "ascending" ? byValue(x, y) : byValue(y, x);
    });
    body.append(...rows);
    for (const other of all("th[aria-sort]", heading.parentElement)) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", direction);
  };
  // By table: the heading that the reader chose. New numbers are put in that order too.
  const chosen = new Map();
  const nameOf = (table) => table.id || table.closest("section")?.id;
  const remember = () => {
    memory.set("sorted", JSON.stringify([...chosen].map(([name, heading]) => [name, heading.cellIndex, heading.getAttribute("aria-sort")])));
  };
  const recall = () => {
    let stored = [];
    try { stored = JSON.parse(memory.get("sorted")) ?? []; } catch { /* as if nothing was stored */ }
    for (const [name, place, direction] of stored) {
      const heading = all("table.sortable").find((table) => nameOf(table) === name)?.tHead.rows[0].cells[place];
      if (!heading) continue;
      sort(heading, direction);
      chosen.set(name, heading);
    }
  };
  recall();
  document.addEventListener("click", (event) => {
    const button = event.target.closest("table.sortable [data-sort]");
    if (!button) return;
    const heading = button.closest("th");
    const current = heading.getAttribute("aria-sort");
    const turned = current === "ascending" ? "descending" : "ascending";
    sort(heading, current === "none" ? button.dataset.sort : turned);
    chosen.set(nameOf(heading.closest("table")), heading);
    remember();
  });
  document.addEventListener("srloss:updated", () => {
    for (const [name, heading] of chosen) {
      if (heading.isConnected) sort(heading, heading.getAttribute("aria-sort"));
      else chosen.delete(name);
    }
  });
}

async function copy(text, button) {
  let isCopied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    document.body.append(area);
    area.select();
    isCopied = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = (button.dataset.text ??= button.textContent);
  button.textContent = isCopied ? "Copied" : "Copy failed";
  setTimeout(() => { button.textContent = before; }, 1500);
}

function setUpCopying() {
  const dress = () => {
    // Long ones are cut where there is no room.
    for (const { parentElement } of all("[data-copy-command]")) one("code", parentElement).title ||= one("code", parentElement).textContent;
  };
  dress();
  document.addEventListener("srloss:updated", dress);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy-command]");
    if (button) copy(one("code", button.parentElement).textContent, button);
  });
}

function setUpExports() {
  if (!one("#exports")) return;
  // Read when asked for: a page that follows a running sweep has new numbers by then.
  const exported = (kind) => JSON.parse(one("#exports").textContent)[kind];
  for (const button of all("[data-export]")) {
    button.addEventListener("click", () => copy(exported(button.dataset.export), button));
  }
  one("#download").addEventListener("click", (event) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([exported("csv")], { type: "text/csv;charset=utf-8" }));
    link.download = event.currentTarget.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

document.documentElement.classList.add("js");
setUpTheme();
setUpHighlight();
setUpSorting();
setUpCopying();
setUpExports();
