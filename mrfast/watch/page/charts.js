"use strict";
/* Throughput over time under the phases, and the shuffle by partition. */
(() => {
  const { canvas2d, colours, step, clock, bytes, brief, count, seconds } = globalThis.mrfast;
  const PHASE_HIGH = 22;

  /** When maps, reduces and commit began and ended: [name, from, to, colour]. */
  function phases(model, now) {
    const { m, r } = model.phases;
    const colour = colours();
    const found = [];
    if (m[0] !== null) found.push(["map", m[0], m[1] ?? now, colour.map]);
    if (r[0] !== null) found.push(["reduce", r[0], r[1] ?? now, colour.reduce]);
    if (r[1] !== null) found.push(["commit", r[1], model.end ? model.end.t : now, colour.soft]);
    return found;
  }

  /** Both charts of throughput, one below the other, on one axis of time. */
  function drawThroughput(canvas, model, now) {
    const width = canvas.parentElement.clientWidth;
    const height = 258;
    const context = canvas2d(canvas, width, height);
    const colour = colours();
    const until = Math.max(now, 0.05);
    const [left, right] = [62, width - 10];
    const x = (t) => left + ((right - left) * t) / until;
    context.font = `600 10.5px ${globalThis.mrfast.FONT}`;
    let lastEnd = -1;
    for (const [name, from, to, fill] of phases(model, now)) {
      const [start, end] = [x(from), Math.max(x(to), x(from) + 2)];
      const row = start < lastEnd - 1 ? 8 : 0; // phases that overlap lie below one another
      lastEnd = Math.max(lastEnd, end);
      context.fillStyle = fill;
      context.beginPath();
      context.roundRect(start, row, end - start, 5, 2.5);
      context.fill();
      const wide = context.measureText(name).width;
      if (end - start > wide + 4 || name !== "commit") {
        context.fillStyle = colour.soft;
        if (start + wide < right) context.fillText(name, start, row + 13);
      }
    }
    const series = (rates, what) => ["m", "r"].map((kind) => rates[kind].perSecond(now, model.underWay(kind, what)));
    const top = PHASE_HIGH + 14;
    panel(context, { top, bottom: top + 84, left, right, until, unit: (n) => `${bytes(n)}/s`, binary: true },
      series(model.bytes, "bytes_done"), [model.bytes.m.width, model.bytes.r.width]);
    panel(context, { top: top + 106, bottom: top + 186, left, right, until, unit: (n) => `${brief(n)}/s` },
      series(model.records, "records"), [model.records.m.width, model.records.r.width]);
    context.font = `11px ${globalThis.mrfast.FONT}`;
    context.fillStyle = colour.soft;
    context.textAlign = "center";
    const by = step(until, Math.max(2, (right - left) / 90), true);
    for (let t = 0; t <= until; t += by) {
      const half = context.measureText(clock(t, by)).width / 2;
      context.fillText(clock(t, by), Math.min(x(t), width - half), top + 202);
    }
    context.textAlign = "left";
  }

  function panel(context, box, series, widths) {
    const colour = colours();
    const { top, bottom, left, right, until } = box;
    const most = Math.max(...series.map((each) => each.reduce((a, b) => Math.max(a, b), 0)), 1);
    const unit = box.binary ? 1024 ** Math.max(0, Math.floor(Math.log(most * 1.02) / Math.log(1024))) : 1;
    const by = step(most / unit, 3) * unit;
    const high = Math.max(most * 1.06, by);
    const y = (value) => bottom - ((bottom - top) * value) / high;
    context.font = `11px ${globalThis.mrfast.FONT}`;
    context.textAlign = "right";
    for (let value = 0; value <= (most > 1 ? high : 0); value += by) {
      context.fillStyle = colour.line;
      context.fillRect(left, Math.round(y(value)), right - left, 1);
      context.fillStyle = colour.soft;
      context.fillText(value ? box.unit(value).replace(".0 ", " ") : "0", left - 8, y(value));
    }
    context.textAlign = "left";
    series.forEach((values, n) => {
      if (!values.some((value) => value > 0)) return;
      const x = (index) => left + ((right - left) * Math.min(index * widths[n], until)) / until;
      context.beginPath();
      context.moveTo(x(0), bottom);
      values.forEach((value, index) => {
        context.lineTo(x(index), y(value));
        context.lineTo(x(index + 1), y(value));
      });
      context.lineTo(x(values.length), bottom);
      const fill = n ? colour.reduce : colour.map;
      context.fillStyle = fill;
      context.globalAlpha = 0.2;
      context.fill();
      context.globalAlpha = 1;
      context.strokeStyle = fill;
      context.lineWidth = 1.5;
      context.setLineDash(n ? [5, 2] : []);
      context.lineJoin = "round";
      context.stroke();
      context.setLineDash([]);
    });
  }

  /** Bars of the accepted map output by partition, the mean as a line, the largest named. */
  function drawShuffle(canvas, model) {
    const width = canvas.parentElement.clientWidth;
    const context = canvas2d(canvas, width, 132);
    const colour = colours();
    const sizes = model.shuffle.bytes || [];
    const most = sizes.reduce((a, b) => Math.max(a, b), 1);
    const mean = sizes.reduce((a, b) => a + b, 0) / (sizes.length || 1);
    const [top, bottom] = [18, 112];
    const pitch = width / sizes.length;
    const gap = pitch > 5 ? Math.min(4, pitch * 0.2) : 0;
    sizes.forEach((size, n) => {
      const high = Math.max(size ? 1 : 0, ((bottom - top) * size) / most);
      context.fillStyle = size > 2 * mean && sizes.length > 1 ? colour.straggler : colour.map;
      context.fillRect(n * pitch, bottom - high, Math.max(1, Math.min(pitch - gap, 56)), high);
    });
    context.fillStyle = colour.line;
    context.fillRect(0, bottom, width, 1);
    const line = bottom - ((bottom - top) * mean) / most;
    context.strokeStyle = colour.text;
    context.globalAlpha = 0.55;
    context.setLineDash([3, 3]);
    context.beginPath();
    context.moveTo(0, line);
    context.lineTo(width, line);
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
    context.fillStyle = colour.soft;
    context.fillText("partition 0", 0, 124);
    context.textAlign = "right";
    if (model.shuffle.partitions > 1) context.fillText(count(model.shuffle.partitions - 1), width, 124);
    context.textAlign = "left";
  }

  /** The shuffle in words. */
  function shuffleText(shuffle) {
    const sizes = shuffle.bytes || [];
    const total = sizes.reduce((a, b) => a + b, 0);
    if (!total) return "The maps have written nothing yet.";
    const largest = sizes.reduce((best, size, n) => (size > sizes[best] ? n : best), 0);
    const each = shuffle.partitions / sizes.length;
    const where = each > 1
      ? `partitions ${count(Math.floor(largest * each))} to ${count(Math.ceil((largest + 1) * each) - 1)}`
      : `partition ${count(largest)}`;
    const ratio = (sizes[largest] * sizes.length) / total;
    return `${bytes(total)} from maps to reduces; most to ${where}: ${bytes(sizes[largest])}, ${ratio.toFixed(1)} times the mean.`;
  }

  /** Throughput in words, for those who do not see the chart. */
  function throughputText(model, now) {
    const parts = phases(model, now).map(([name, from, to]) => `${name} from ${seconds(from)} to ${seconds(to)}`);
    return parts.length ? `Phases: ${parts.join(", ")}.` : "Nothing has run yet.";
  }

  Object.assign(globalThis.mrfast, { drawThroughput, drawShuffle, shuffleText, throughputText });
})();
