"use strict";
// Type part of a loss's name: only what fits stays in the tables, the charts and the crops. The baseline always does.

function setUpFilter() {
  const box = one("#filter");
  if (!box) return;
  const apply = () => {
    const names = new Map(all("[data-pick]").map((button) => [button.dataset.pick, one("span", button).textContent]));
    names.delete("b");
    // Several parts, divided by commas: what fits any of them stays.
    const parts = box.value.toLowerCase().split(",").map((part) => part.trim()).filter(Boolean);
    const fits = (name) => parts.length === 0 || parts.some((part) => name.toLowerCase().includes(part));
    const gone = new Set([...names].filter(([, name]) => !fits(name)).map(([key]) => key));
    for (const element of all("[data-loss]")) element.classList.toggle("filtered", gone.has(element.dataset.loss));
    for (const item of all(".legend li")) item.classList.toggle("filtered", gone.has(one("[data-pick]", item)?.dataset.pick));
    const left = names.size - gone.size;
    one("#filtered").textContent = parts.length === 0 ? "" : left === 0 ? "no loss has this in its name" : `${left} of ${names.size} losses`;
    memory.set("filter", box.value);
  };
  box.addEventListener("input", apply);
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target instanceof Element && event.target.closest("select, input, textarea");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      box.focus();
      box.select();
    }
    if (event.key === "Escape" && (event.target === box || !isTyping) && box.value) {
      box.value = "";
      apply();
    }
    if (event.key === "Escape" && event.target === box) box.blur();
  });
  document.addEventListener("srloss:updated", () => { if (box.value) apply(); });
  box.value = memory.get("filter") ?? "";
  if (box.value) apply();
}

setUpFilter();
