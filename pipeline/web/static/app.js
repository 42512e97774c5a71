// What a page cannot do without a script: keys, zoom, lines and boxes that know each other, counts that move.
"use strict";

const KEYS = "pagepack-keys";
const byId = (id) => document.getElementById(id);

function keysAreOn() {
  return localStorage.getItem(KEYS) !== "off";
}

function isTyping(target) {
  return target.closest("input:not([type=checkbox]), textarea, select") !== null;
}

// Keys of one letter can be turned off, for whoever speaks to the machine (WCAG 2.1.4).
function setUpKeys() {
  const box = byId("keys");
  box.checked = keysAreOn();
  box.addEventListener("change", () => localStorage.setItem(KEYS, box.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || !keysAreOn()) return;
    if (event.key === "/" && byId("find")) {
      event.preventDefault();
      byId("find").focus();
      return;
    }
    if (document.querySelector(".queue") && (event.key === "j" || event.key === "k")) {
      event.preventDefault();
      moveInQueue(event.key === "j" ? 1 : -1);
      return;
    }
    const key = event.key === "=" ? "+" : event.key;
    const target = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (target) {
      event.preventDefault();
      target.click();
    }
  });
}

function moveInQueue(step) {
  const entries = [...document.querySelectorAll(".queue .entry")];
  const here = entries.indexOf(document.activeElement);
  const next = entries[here < 0 ? 0 : Math.min(Math.max(here + step, 0), entries.length - 1)];
  if (next) next.focus();
}

function setUpZoom() {
  const zoomed = byId("zoomed");
  if (!zoomed) return;
  document.querySelector(".tools").hidden = false;
  let scale = 1;
  const show = () => { zoomed.style.width = `${scale * 100}%`; };
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      const step = { in: 1.25, out: 0.8, fit: 0, page: 0 }[button.dataset.zoom];
      scale = step ? Math.min(Math.max(scale * step, 0.1), 8) : 1;
      if (button.dataset.zoom === "page") {
        const [sheet, image] = [zoomed.parentElement, zoomed.querySelector("img")];
        const borders = 2;  // no bar to scroll takes room any more, once the page fits
        const most = parseFloat(getComputedStyle(sheet).maxHeight) - borders;
        scale = Math.min((most * image.width) / (image.height * (sheet.offsetWidth - borders)), 1);
      }
      show();
    });
  }
  byId("all-boxes").addEventListener("change", (event) => zoomed.classList.toggle("all", event.target.checked));
}

function setUpLines() {
  const words = byId("words");
  if (!words) return;
  const lines = [...words.querySelectorAll("a.line")];
  const boxOf = (number) => byId(`box-${number}`);
  const show = (number, isOn) => {
    const box = boxOf(number);
    if (box) box.classList.toggle("on", isOn);
    for (const line of lines) if (line.dataset.line === number) line.classList.toggle("on", isOn);
  };
  const intoView = (number) => {
    const box = boxOf(number);
    const sheet = document.querySelector(".sheet");
    if (!box || !sheet) return;
    const [at, around] = [box.getBoundingClientRect(), sheet.getBoundingClientRect()];
    if (at.top < around.top || at.bottom > around.bottom) sheet.scrollTop += at.top - around.top - around.height / 3;
    if (at.left < around.left || at.right > around.right) sheet.scrollLeft += at.left - around.left - 20;
  };
  // One stop of the Tab key for the text; arrows go from line to line.
  lines.forEach((line, index) => { line.tabIndex = index === 0 ? 0 : -1; });
  words.addEventListener("keydown", (event) => {
    const at = lines.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (at < 0 || !step || !lines[at + step]) return;
    event.preventDefault();
    lines[at].tabIndex = -1;
    lines[at + step].tabIndex = 0;
    lines[at + step].focus();
  });
  for (const [one, other, isOn] of [["mouseover", "focusin", true], ["mouseout", "focusout", false]]) {
    for (const name of [one, other]) {
      document.querySelector(".beside").addEventListener(name, (event) => {
        const found = event.target.closest("[data-line]");
        if (!found) return;
        show(found.dataset.line, isOn);
        if (isOn && name === "focusin") intoView(found.dataset.line);
      });
    }
  }
  words.addEventListener("click", (event) => {
    const line = event.target.closest("a.line");
    if (!line) return;
    event.preventDefault();
    intoView(line.dataset.line);
  });
  for (const box of document.querySelectorAll(".boxes rect")) {
    box.addEventListener("click", () => {
      const line = lines.find((one) => one.dataset.line === box.dataset.line);
      if (line) line.focus();
    });
  }
}

// A part of the page is asked for again, until it says that nothing more will come.
function setUpRefresh() {
  for (const part of document.querySelectorAll("[data-refresh]:not([data-settled])")) refreshLater(part, 2000);
}

function refreshLater(part, milliseconds) {
  setTimeout(async () => {
    if (document.hidden) return refreshLater(part, milliseconds);
    let next = milliseconds;
    try {
      const answer = await fetch(part.dataset.refresh, { headers: { Accept: "text/html" } });
      if (!answer.ok) throw new Error(answer.status);
      let found = new DOMParser().parseFromString(`<template>${await answer.text()}</template>`, "text/html");
      found = found.querySelector("template").content;
      const whole = part.dataset.part && found.querySelector(`#${part.dataset.part}`);
      const isSettled = (whole || found).querySelector("[data-settled]") || (whole && whole.hasAttribute("data-settled"));
      const held = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      part.replaceChildren(...(whole || found).childNodes);
      if (held) [...part.querySelectorAll("a")].find((one) => one.getAttribute("href") === held)?.focus();
      if (isSettled) return undefined;
    } catch {
      next = Math.min(milliseconds * 2, 30000);
    }
    return refreshLater(part, next);
  }, milliseconds);
}

setUpKeys();
setUpZoom();
setUpLines();
setUpRefresh();
