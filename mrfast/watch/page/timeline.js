"use strict";
/* Every attempt as a bar, a row for each one that a worker runs at once: what is slow, doubled or failed stands out. */
(() => {
  const { canvas2d, colours, el, step, clock, seconds, fitted, text, FONT } = globalThis.mrfast;
  const ROW = 15;
  const GAP = 7; // between workers
  const AXIS = 22;
  const HIGH = 420;
  const WORDS = { accepted: "accepted", failed: "FAILED", expired: "lease ran out", released: "given back", preempted: "preempted",
    cancelled: "cancelled", superseded: "another attempt was first", ended: "still ran when the job ended" };

  /** An attempt in one line. */
  function attemptText(attempt, model, now) {
    const parts = [attempt.name];
    if (attempt.backup) parts.push("backup");
    if (attempt.adopted) parts.push("begun before the coordinator started");
    parts.push(`on ${attempt.worker.label}`);
    parts.push(`from ${seconds(attempt.start)} for ${seconds((attempt.end ?? now) - attempt.start)}`);
    parts.push(attempt.end === null ? "running" : WORDS[attempt.word] || attempt.word);
    if (model.isStraggler(attempt, now)) parts.push(`straggler: its like takes ${seconds(model.usual(attempt))}`);
    return parts.join(" · ");
  }

  class Timeline {
    constructor(host, chosen) {
      Object.assign(this, { chosen, from: 0, to: null, rows: [], now: 0, selected: null });
      this.canvas = el("canvas", { "aria-hidden": "true" });
      this.space = el("div", { class: "space" });
      this.scroller = el("div", {
        class: "bars", tabindex: "0", role: "group",
        "aria-label": "Timeline of attempts by worker: plus and minus zoom, left and right move, 0 shows all. The same is in words in each task's story.",
        onscroll: () => this.draw(), onkeydown: (event) => this.key(event),
      }, this.canvas, this.space);
      this.caption = el("p", { class: "caption" });
      host.append(this.scroller, this.caption);
      this.canvas.addEventListener("click", (event) => {
        const attempt = this.at(event);
        if (attempt) this.chosen(attempt.task);
      });
      this.canvas.addEventListener("pointermove", (event) => {
        const attempt = this.at(event);
        this.canvas.style.cursor = attempt ? "pointer" : "";
        if (attempt) text(this.caption, attemptText(attempt, this.model, this.now));
      });
      this.canvas.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // so that a page scrolls past it
        event.preventDefault();
        this.zoom(Math.exp(event.deltaY / 300), this.time(event.clientX - this.canvas.getBoundingClientRect().left));
      }, { passive: false });
      new ResizeObserver(() => this.draw()).observe(this.scroller);
    }

    update(model, now) {
      this.model = model;
      this.now = now;
      this.rows = [];
      let y = 0;
      for (const worker of model.workers.values()) {
        const lanes = worker.lanes.length ? worker.lanes : [[]];
        lanes.forEach((lane, n) => this.rows.push({ y: y + n * ROW, lane, worker, first: n === 0, lanes: lanes.length }));
        y += lanes.length * ROW + GAP;
      }
      this.deep = y;
      if (!this.caption.textContent) this.caption.textContent = "Point at a bar. Plus and minus zoom (or Ctrl and the wheel).";
      this.draw();
    }

    span() {
      return [this.from, this.to ?? Math.max(this.now, 0.5) * 1.01];
    }

    time(x) {
      const [from, to] = this.span();
      return from + ((to - from) * (x - this.left)) / (this.width - this.left - 8);
    }

    zoom(factor, around) {
      const [from, to] = this.span();
      const all = Math.max(this.now, 0.5) * 1.01;
      around ??= (from + to) / 2;
      const wide = Math.max((to - from) * factor, 0.05);
      if (wide >= all) return this.reset();
      this.move(around - ((around - from) * wide) / (to - from), wide);
    }

    move(from, wide) {
      const all = Math.max(this.now, 0.5) * 1.01;
      this.from = Math.max(0, Math.min(from, all - wide));
      this.to = this.from + wide;
      this.draw();
    }

    reset() {
      this.from = 0;
      this.to = null;
      this.draw();
    }

    key(event) {
      const [from, to] = this.span();
      const wide = to - from;
      const keys = { "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), 0: () => this.reset(),
        ArrowLeft: () => this.move(from - wide / 8, wide), ArrowRight: () => this.move(from + wide / 8, wide) };
      if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
      if (this.to !== null || !event.key.startsWith("Arrow")) keys[event.key]();
      event.preventDefault();
    }

    draw() {
      if (!this.model || !this.scroller.clientWidth) return;
      const width = this.scroller.clientWidth;
      const high = Math.min(this.deep + AXIS, HIGH);
      this.width = width;
      this.left = width < 560 ? 64 : 128;
      this.scroller.style.height = `${high + 4}px`;
      this.space.style.height = `${Math.max(0, this.deep + AXIS - high)}px`;
      const context = canvas2d(this.canvas, width, high);
      const colour = colours();
      const [from, to] = this.span();
      const scale = (width - this.left - 8) / (to - from);
      const top = this.scroller.scrollTop;
      const by = step(to - from, Math.max(2, (width - this.left) / 90), true);
      context.fillStyle = colour.line;
      for (let t = Math.ceil(from / by) * by; t <= to; t += by) context.fillRect(Math.round(this.left + (t - from) * scale), 0, 1, high - AXIS);
      context.save();
      context.beginPath();
      context.rect(0, 0, width, high - AXIS);
      context.clip();
      const labels = [];
      for (const row of this.rows) {
        const y = row.y - top;
        if (y > high || y < -ROW) {
          if (!(row.first && y + row.lanes * ROW > 0 && y < high)) continue;
        }
        if (row.first) this.label(context, row, Math.max(y, Math.min(0, y + (row.lanes - 1) * ROW)));
        if (y > -ROW) for (const attempt of row.lane) this.bar(context, attempt, y + 1, from, to, scale, labels);
      }
      context.font = `600 10px ${FONT}`;
      for (const [text, x, y, fill] of labels) {
        context.fillStyle = fill;
        context.fillText(text, x, y);
      }
      context.restore();
      context.font = `11px ${FONT}`;
      context.fillStyle = colour.soft;
      context.textAlign = "center";
      for (let t = Math.ceil(from / by) * by; t <= to; t += by) {
        const half = context.measureText(clock(t, by)).width / 2;
        context.fillText(clock(t, by), Math.min(this.left + (t - from) * scale, width - half), high - 9);
      }
      context.textAlign = "left";
    }

    label(context, row, y) {
      const gone = row.worker.gone !== null && !this.model.end;
      context.fillStyle = gone ? colours().failed : colours().soft;
      context.font = `11px ${FONT}`;
      const name = gone ? `${row.worker.label} (gone)` : row.worker.label;
      context.fillText(fitted(context, name, this.left - 12), 0, y + ROW / 2);
    }

    bar(context, attempt, y, from, to, scale, labels) {
      const end = attempt.end ?? this.now;
      if (end < from || attempt.start > to) return;
      const colour = colours();
      const x = Math.max(this.left + (attempt.start - from) * scale, this.left - 2);
      const wide = Math.max(Math.min(this.left + (end - from) * scale, this.width) - x, 0.8);
      const gap = wide > 4 ? 1 : 0;
      const high = ROW - 4;
      const running = attempt.end === null;
      const failed = attempt.word === "failed" || attempt.word === "expired";
      const kind = attempt.task.kind === "m" ? colour.map : colour.reduce;
      const straggler = this.model.isStraggler(attempt, this.now);
      const wasted = ["superseded", "cancelled", "released", "preempted", "ended"].includes(attempt.word);
      context.beginPath();
      context.roundRect(x, y, wide - gap, high, gap * 2);
      context.fillStyle = failed ? colour.failed : wasted ? colour.void : straggler ? colour.straggler : attempt.backup ? colour.backup : kind;
      context.globalAlpha = running ? 0.55 : straggler || failed || attempt.backup || wasted ? 1 : 0.78;
      context.fill();
      context.globalAlpha = 1;
      if (attempt.backup) { // a second line below tells it from all others without its colour
        context.fillStyle = colour.backup;
        context.fillRect(x, y + high + 0.5, wide, 2);
      }
      if (failed && wide > 3) {
        context.strokeStyle = colour.surface;
        context.lineWidth = 1.5;
        context.beginPath();
        const middle = x + Math.min(wide / 2, 8);
        context.moveTo(middle - 3, y + 2.5);
        context.lineTo(middle + 3, y + high - 2.5);
        context.moveTo(middle + 3, y + 2.5);
        context.lineTo(middle - 3, y + high - 2.5);
        context.stroke();
      }
      if (running) {
        context.fillStyle = kind;
        context.fillRect(x + wide - 2, y, 2, high);
      }
      if (attempt.task === this.selected) {
        context.strokeStyle = colour.text;
        context.lineWidth = 1.75;
        context.strokeRect(x - 1, y - 1, wide + 2, high + 2);
      }
      const said = failed ? "" : attempt.backup ? "backup " : straggler ? "slow " : "";
      if ((said || wide > 60) && wide > (said ? 44 : 60)) {
        context.font = `600 10px ${FONT}`;
        const text = `${said}${attempt.task.name.replace(/-0+(?=\d)/, "-")}`;
        if (context.measureText(text).width < wide - (failed ? 20 : 8)) labels.push([text, x + (failed ? 15 : 4), y + high / 2 + 0.5, running ? colour.text : colour.surface]);
      }
    }

    at(event) {
      const box = this.canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top + this.scroller.scrollTop];
      const t = this.time(x);
      const row = this.rows.find((each) => y >= each.y && y < each.y + ROW);
      if (!row || x < this.left) return null;
      const slack = Math.abs(this.time(x + 2) - t);
      return row.lane.find((each) => t >= each.start - slack && t <= (each.end ?? this.now) + slack) || null;
    }
  }

  Object.assign(globalThis.mrfast, { Timeline, attemptText, ENDS: WORDS });
})();
