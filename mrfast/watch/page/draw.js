"use strict";
/* What all pictures share: numbers for people, elements without markup, canvases, colours. */
(() => {
  const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
  const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });

  const count = (n) => whole.format(n || 0);
  const brief = (n) => (Math.abs(n || 0) < 10000 ? whole.format(n || 0) : short.format(n));
  const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

  function bytes(n) {
    let unit = 0;
    n = n || 0;
    while (n >= 999.5 && unit < UNITS.length - 1) {
      n /= 1024;
      unit++;
    }
    return `${n.toFixed(unit === 0 || n >= 99.95 ? 0 : 1)} ${UNITS[unit]}`;
  }

  function seconds(s) {
    if (s === null || s === undefined || Number.isNaN(s)) return "–";
    if (s < 9.95) return `${s.toFixed(s < 0.995 ? 2 : 1)} s`;
    if (s < 60) return `${Math.floor(s)} s`;
    const two = (n) => String(Math.floor(n)).padStart(2, "0");
    return s < 3600 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${Math.floor(s / 3600)} h ${two((s % 3600) / 60)} min`;
  }

  const dollars = (n) => (n ? `$${n < 0.01 ? n.toPrecision(2) : n.toFixed(2)}` : "$0");

  /** Text as it is shown: what would turn its direction, or cannot be seen, stands there as its code. */
  const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  const shown = (value) => String(value).replace(/\r\n/g, "\n").replace(UNSEEN,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);

  /** An element; children that are no elements become text, and nothing is ever parsed as markup. */
  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined).map(
      (child) => (child instanceof Node ? child : shown(child))));
    return element;
  }

  const byId = (id) => document.getElementById(id);

  function text(target, value) {
    const element = typeof target === "string" ? byId(target) : target;
    const words = shown(value);
    if (element.textContent !== words) element.textContent = words;
  }

  /** Another content for an element, if it differs from what it was made of the last time. */
  const made = new WeakMap();
  function fill(element, of, make) {
    const stamp = JSON.stringify(of);
    if (made.get(element) === stamp) return;
    made.set(element, stamp);
    element.replaceChildren(...[make()].flat());
  }

  /** The context of a canvas that has the size of its box on the screen, cleared. */
  function canvas2d(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== wide || canvas.height !== high) {
      canvas.width = wide;
      canvas.height = high;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = `11px ${FONT}`;
    context.textBaseline = "middle";
    return context;
  }

  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif';
  const NAMES = ["text", "soft", "faint", "line", "surface", "sunken", "map", "reduce", "running", "backup", "failed",
    "straggler", "void"];
  let palette = null;

  /** The colours of the style sheet, for canvases. */
  function colours() {
    if (!palette) {
      const style = getComputedStyle(document.documentElement);
      palette = Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    }
    return palette;
  }

  const forgetColours = () => { palette = null; };

  /** Steps of 1, 2 or 5 (of time: minutes and hours too) that cut `span` in about `parts`. */
  function step(span, parts, ofTime = false) {
    const rough = span / parts || 1;
    if (ofTime && rough > 10) {
      for (const each of [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200]) if (each >= rough) return each;
      return 86400 * Math.ceil(rough / 86400);
    }
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 5, 10].find((each) => each * power >= rough * 0.999) * power;
  }

  /** A place on the axis of time. */
  function clock(s, by) {
    if (s < 60 && by < 60) return `${by < 1 ? s.toFixed(by < 0.1 ? 2 : 1) : Math.round(s)} s`;
    const two = (n) => String(Math.floor(n)).padStart(2, "0");
    return s >= 3600 ? `${Math.floor(s / 3600)}:${two((s % 3600) / 60)}:${two(s % 60)}` : `${Math.floor(s / 60)}:${two(s % 60)}`;
  }

  /** The text, cut to a width with an ellipsis in its middle. */
  function fitted(context, value, width) {
    if (context.measureText(value).width <= width) return value;
    let keep = value.length;
    const cut = () => `${value.slice(0, Math.ceil(keep / 2))}…${value.slice(value.length - Math.floor(keep / 2))}`;
    while (keep > 2 && context.measureText(cut()).width > width) keep--;
    return cut();
  }

  Object.assign(globalThis.mrfast, { shown, count, brief, plural, bytes, seconds, dollars, el, byId, text, fill, canvas2d, colours,
    forgetColours, step, clock, fitted, FONT });
})();
