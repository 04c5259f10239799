"use strict";
/* The tasks of one kind as a field of cells; only the rows in sight are drawn, so that a million are as smooth as ten. */
(() => {
  const { canvas2d, colours, el, count, plural, bytes, seconds, STATE_WORDS } = globalThis.mrfast;
  const SIZES = [24, 20, 16, 13]; // of a cell with its gap, the largest that fits
  const HIGH = 260;
  const LEGEND = [...globalThis.mrfast.STATES, "mishap"];

  /** One cell: state by colour and by shape. */
  function drawCell(context, x, y, size, state, trouble) {
    const colour = colours();
    const box = (inset) => context.roundRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset, Math.max(1, 2.5 - inset));
    const fill = { running: colour.running, backup: colour.backup, done: colour.map, failed: colour.failed }[state];
    context.beginPath();
    if (fill) {
      box(0);
      context.fillStyle = fill;
      context.fill();
    } else {
      box(0.75);
      context.lineWidth = 1.5;
      context.strokeStyle = { again: colour.failed, restored: colour.map }[state] || colour.faint;
      context.stroke();
    }
    const middle = [x + size / 2, y + size / 2];
    context.fillStyle = context.strokeStyle = colour.surface;
    context.lineWidth = Math.max(1.5, size / 8);
    context.beginPath();
    if (state === "running") {
      context.arc(...middle, size * 0.18, 0, 7);
      context.fill();
    } else if (state === "backup") {
      context.rect(x + size * 0.25, y + size * 0.25, size * 0.17, size * 0.5);
      context.rect(x + size * 0.58, y + size * 0.25, size * 0.17, size * 0.5);
      context.fill();
    } else if (state === "failed" || state === "again") {
      if (state === "again") context.strokeStyle = colour.failed;
      const [a, b] = [size * 0.3, size * 0.7];
      context.moveTo(x + a, y + a);
      context.lineTo(x + b, y + b);
      if (state === "failed") {
        context.moveTo(x + b, y + a);
        context.lineTo(x + a, y + b);
      }
      context.stroke();
    } else if (state === "restored") {
      context.fillStyle = colour.map;
      context.arc(...middle, size * 0.2, 0, 7);
      context.fill();
    } else if (state === "done" && trouble) {
      // It went wrong before it went well: one corner is cut.
      context.moveTo(x + size * 0.45, y);
      context.lineTo(x + size, y);
      context.lineTo(x + size, y + size * 0.55);
      context.fillStyle = colour.failed;
      context.fill();
    }
  }

  /** A task in one line. */
  function taskText(task) {
    const last = task.attempts[task.attempts.length - 1];
    const parts = [`${task.name}: ${STATE_WORDS[task.state]}`];
    if (task.attempts.length > 1) parts.push(plural(task.attempts.length, "attempt"));
    if (last) parts.push(`on ${last.worker.label}`);
    if (task.accepted) parts.push(`in ${seconds(task.accepted.end - task.accepted.start)}`);
    if (task.input) parts.push(`${task.input} (${bytes(task.bytes)}${task.pieces > 1 ? `, ${plural(task.pieces, "piece")}` : ""})`);
    return parts.join(" · ");
  }

  class Grid {
    /** `chosen(task)` is called when a task is clicked, or reached by keys; `opened` when its story is asked for by Enter. */
    constructor(host, kind, label, chosen, opened) {
      Object.assign(this, { kind, chosen, opened, tasks: [], selected: -1, columns: 1, pitch: SIZES[0] });
      this.canvas = el("canvas", { "aria-hidden": "true" });
      this.option = el("div", { role: "option", id: `option-${kind}`, class: "unseen", "aria-selected": "true" });
      this.space = el("div", { class: "space" });
      this.scroller = el("div", {
        class: "cells", tabindex: "0", role: "listbox", "aria-label": `${label}: arrow keys move, Enter opens the story`,
        "aria-activedescendant": `option-${kind}`, onscroll: () => this.draw(), onkeydown: (event) => this.key(event),
        onfocus: () => { if (this.selected < 0 && this.tasks.length) this.select(0, false); },
      }, this.canvas, this.space, this.option);
      this.caption = el("p", { class: "caption" });
      host.append(this.scroller, this.caption);
      this.canvas.addEventListener("click", (event) => {
        const index = this.at(event);
        if (index >= 0) this.select(index);
      });
      this.canvas.addEventListener("pointermove", (event) => {
        const index = this.at(event);
        if (index >= 0) globalThis.mrfast.text(this.caption, taskText(this.tasks[index]));
      });
      new ResizeObserver(() => this.draw()).observe(this.scroller);
    }

    update(tasks) {
      this.tasks = tasks;
      this.scroller.parentElement.hidden = !tasks.length;
      if (this.selected >= 0) this.describe();
      else if (this.kind === "m" && tasks.length && !this.caption.textContent) this.caption.textContent = "Point at a task, or use the arrow keys.";
      this.draw();
    }

    layout() {
      const width = this.scroller.clientWidth;
      const rows = (size) => Math.ceil(this.tasks.length / Math.max(1, Math.floor(width / size)));
      this.pitch = SIZES.find((size) => rows(size) * size <= HIGH) || SIZES[SIZES.length - 1];
      this.columns = Math.max(1, Math.floor(width / this.pitch));
      const all = Math.ceil(this.tasks.length / this.columns) * this.pitch;
      const high = Math.min(all, HIGH);
      this.scroller.style.height = `${high + 8}px`;
      this.space.style.height = `${all - high}px`;
      return [width, high];
    }

    draw() {
      if (!this.tasks.length || !this.scroller.clientWidth) return;
      const [width, high] = this.layout();
      const context = canvas2d(this.canvas, width, high);
      const top = this.scroller.scrollTop;
      const { pitch, columns } = this;
      const size = pitch - (pitch > 14 ? 4 : 3);
      const end = Math.min(this.tasks.length, Math.ceil((top + high) / pitch) * columns);
      for (let index = Math.floor(top / pitch) * columns; index < end; index++) {
        const task = this.tasks[index];
        drawCell(context, (index % columns) * pitch + 1.5, Math.floor(index / columns) * pitch - top + 1.5, size, task.state, task.trouble);
      }
      if (this.selected >= 0) {
        context.strokeStyle = colours().text;
        context.lineWidth = 1.75;
        context.beginPath();
        context.roundRect((this.selected % columns) * pitch + 0.25, Math.floor(this.selected / columns) * pitch - top + 0.25,
          size + 2.5, size + 2.5, 3.5);
        context.stroke();
      }
    }

    at(event) {
      const box = this.canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - box.left) / this.pitch);
      const row = Math.floor((event.clientY - box.top + this.scroller.scrollTop) / this.pitch);
      const index = row * this.columns + column;
      return column >= 0 && column < this.columns && index < this.tasks.length ? index : -1;
    }

    key(event) {
      const page = Math.max(1, Math.floor(HIGH / this.pitch) - 1) * this.columns;
      const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: page, PageUp: -page,
        Home: -1e9, End: 1e9 };
      if (event.key === "Enter" || event.key === " ") {
        if (this.selected >= 0) this.opened(this.tasks[this.selected]);
      } else if (event.key in moves && !event.ctrlKey && !event.metaKey && !event.altKey) {
        const to = this.selected + moves[event.key];
        this.select(Math.max(0, Math.min(this.tasks.length - 1, to)));
      } else return;
      event.preventDefault();
    }

    select(index, tell = true) {
      this.selected = index;
      if (index >= 0) {
        const y = Math.floor(index / this.columns) * this.pitch;
        const { scrollTop, clientHeight } = this.scroller;
        if (y < scrollTop) this.scroller.scrollTop = y;
        else if (y + this.pitch > scrollTop + clientHeight - 8) this.scroller.scrollTop = y + this.pitch - clientHeight + 8;
        this.describe();
        if (tell) this.chosen(this.tasks[index]);
      }
      this.draw();
    }

    describe() {
      const task = this.tasks[this.selected];
      if (!task) return;
      this.option.setAttribute("aria-posinset", this.selected + 1);
      this.option.setAttribute("aria-setsize", this.tasks.length);
      const words = globalThis.mrfast.shown(taskText(task));
      for (const each of [this.option, this.caption]) if (each.textContent !== words) each.textContent = words;
    }
  }

  /** What the cells mean and how many there are of each: buttons that go to the next one in that state. */
  class Legend {
    constructor(host, next) {
      this.host = host;
      this.next = next;
      this.buttons = {};
      for (const state of LEGEND) {
        const canvas = el("canvas", { "aria-hidden": "true" });
        const number = el("b", {});
        const button = el("button", { type: "button", title: "Go to the next such task", onclick: () => next(state) },
          canvas, el("span", {}, STATE_WORDS[state] || "done after a mishap"), number);
        this.buttons[state] = { button, canvas, number };
        host.append(button);
      }
    }

    update(model) {
      const counts = { ...model.counts.m, mishap: model.mishaps.length };
      for (const [state, n] of Object.entries(model.counts.r)) counts[state] = (counts[state] || 0) + n;
      for (const [state, { button, canvas, number }] of Object.entries(this.buttons)) {
        const found = counts[state] || 0;
        button.hidden = !found && !["waiting", "running", "done"].includes(state);
        button.disabled = !found;
        number.textContent = count(found);
        drawCell(canvas2d(canvas, 13, 13), 0.5, 0.5, 12, state === "mishap" ? "done" : state, state === "mishap");
      }
    }
  }

  Object.assign(globalThis.mrfast, { Grid, Legend, drawCell, taskText });
})();
