"use strict";
/* The events of a job, folded into what the page draws. Pure: no document, no clock, no network.
   An event is what control/events.py describes; unknown kinds and fields are passed over. */
(() => {
  const STATES = ["waiting", "running", "backup", "done", "again", "failed", "restored"];
  const STATE_WORDS = {
    waiting: "waiting", running: "running", backup: "running twice (backup)", done: "done", again: "tried, not done",
    failed: "failed", restored: "done before this run",
  };
  const CELLS = 160; // of a Rate: when they do not reach, each becomes twice as wide
  const PRINTED_MAX = 2000; // lines of apps that are kept
  const NEIGHBOURS = 16; // on each side: a slow start of the whole job makes nobody a straggler
  const OPEN = null;

  /** A worker as people tell it from others: of an id the first eight digits, as the terminal says it. */
  const shortName = (name) => (/^[0-9a-f]{32}$/.test(name) ? name.slice(0, 8) : name);

  /** An amount over time: what each attempt did is spread evenly over the time that it took. */
  class Rate {
    constructor() {
      this.width = 0.02;
      this.cells = new Float64Array(CELLS);
    }

    add(from, to, amount) {
      to = Math.max(to, from + 0.001);
      while (to >= this.width * CELLS) this._widen();
      spread(this.cells, this.width, from, to, amount);
    }

    _widen() {
      for (let n = 0; n < CELLS / 2; n++) this.cells[n] = this.cells[2 * n] + this.cells[2 * n + 1];
      this.cells.fill(0, CELLS / 2);
      this.width *= 2;
    }

    /** Amount per second in each cell up to `until`; `more`: [from, to, amount] of what is still under way. */
    perSecond(until, more = []) {
      while (until >= this.width * CELLS) this._widen();
      const cells = this.cells.slice();
      for (const [from, to, amount] of more) if (to > from) spread(cells, this.width, from, to, amount);
      const count = Math.max(1, Math.ceil(until / this.width));
      const values = new Float64Array(count);
      for (let n = 0; n < count; n++) {
        values[n] = cells[n] / Math.max(0.001, Math.min(this.width, until - n * this.width));
      }
      // The last cell has hardly begun: what it holds says little yet.
      if (count > 1 && until - (count - 1) * this.width < this.width / 2) values[count - 1] = values[count - 2];
      return values;
    }
  }

  function spread(cells, width, from, to, amount) {
    const first = Math.floor(from / width);
    const last = Math.min(Math.floor(to / width), cells.length - 1);
    for (let n = first; n <= last; n++) {
      const share = Math.min(to, (n + 1) * width) - Math.max(from, n * width);
      cells[n] += (amount * share) / (to - from);
    }
  }

  class Model {
    constructor() {
      this.t = 0;
      this.job = null;
      this.planned = null;
      this.end = null;
      this.status = null; // of the last sample
      this.maps = []; // tasks by index
      this.reduces = [];
      this.workers = new Map();
      this.attempts = new Map();
      this.running = new Set();
      this.failures = []; // in the order of time
      this.lost = [];
      this.printed = [];
      this.printedLeftOut = 0;
      this.shuffle = null;
      this.hot = null;
      this.leftOut = 0;
      this.events = 0;
      this.counts = { m: {}, r: {} }; // tasks by kind and state
      this.durations = { m: [], r: [] }; // of accepted attempts: when each began, and its own time
      this.phases = { m: [OPEN, OPEN], r: [OPEN, OPEN] }; // when the first began, when the last was accepted
      this.bytes = { m: new Rate(), r: new Rate() }; // read by maps, written by reduces
      this.records = { m: new Rate(), r: new Rate() };
    }

    /** Fold one event in. */
    apply(event) {
      if (typeof event !== "object" || event === null || !event.e) return;
      this.events++;
      if (event.t > this.t) this.t = event.t;
      const fold = FOLDS[event.e];
      if (fold) fold(this, event);
    }

    get state() {
      if (this.end) return this.end.state;
      if (this.status && this.status.state) return this.status.state;
      return this.planned ? "RUNNING" : "PLANNING";
    }

    tasks(kind) {
      return kind === "m" ? this.maps : this.reduces;
    }

    /** A task by its name, made when it is new; null for what is no task's name. */
    task(name) {
      const found = /^([mr])-(\d{1,7})$/.exec(name || "");
      if (!found) return null;
      const tasks = this.tasks(found[1]);
      const index = Number(found[2]);
      this._grow(found[1], index + 1);
      return tasks[index];
    }

    find(name) {
      const found = /^([mr])-0*(\d{1,7})$/.exec((name || "").trim());
      return found ? this.tasks(found[1])[Number(found[2])] || null : null;
    }

    _grow(kind, size) {
      const tasks = this.tasks(kind);
      const digits = kind === "m" ? 6 : 5;
      for (let index = tasks.length; index < size; index++) {
        const name = `${kind}-${String(index).padStart(digits, "0")}`;
        tasks.push({ name, kind, index, state: "waiting", attempts: [], notes: [], accepted: null, trouble: 0,
          input: "", bytes: 0, pieces: 0, printed: 0 });
        this.counts[kind].waiting = (this.counts[kind].waiting || 0) + 1;
      }
    }

    settle(task) {
      let state = "waiting";
      const running = task.attempts.filter((each) => each.end === OPEN);
      if (task.fatal) state = "failed";
      else if (task.accepted) state = "done";
      else if (task.restored) state = "restored";
      else if (running.length > 1) state = "backup";
      else if (running.length) state = "running";
      else if (task.attempts.length) state = "again";
      if (state === task.state) return;
      const counts = this.counts[task.kind];
      counts[task.state]--;
      counts[state] = (counts[state] || 0) + 1;
      task.state = state;
    }

    /** Tasks that went wrong before they went well. */
    get mishaps() {
      return [...this.maps, ...this.reduces].filter((task) => task.trouble && task.state === "done");
    }

    done(kind) {
      return (this.counts[kind].done || 0) + (this.counts[kind].restored || 0);
    }

    worker(id) {
      const name = String(id || "?");
      if (!this.workers.has(name)) {
        this.workers.set(name, { name, label: shortName(name), slots: 0, since: this.t, gone: OPEN, lanes: [], running: new Set(), accepted: 0,
          failed: 0, records: 0 });
      }
      return this.workers.get(name);
    }

    open(event, adopted) {
      const task = this.task(event.task);
      if (!task || this.attempts.has(event.attempt)) return;
      const worker = this.worker(event.worker);
      const attempt = { name: event.attempt, task, worker, start: event.t, end: OPEN, word: "", backup: !!event.backup,
        adopted, done: null, failure: null };
      if (event.input) Object.assign(task, { input: event.input, bytes: event.bytes || 0, pieces: event.pieces || 1 });
      this.attempts.set(attempt.name, attempt);
      this.running.add(attempt);
      worker.running.add(attempt);
      task.attempts.push(attempt);
      // The first lane whose last attempt is over: as many lanes as the worker ever ran at once.
      let lane = worker.lanes.findIndex((each) => each[each.length - 1].end !== OPEN);
      if (lane < 0) lane = worker.lanes.push([]) - 1;
      worker.lanes[lane].push(attempt);
      const phase = this.phases[task.kind];
      if (phase[0] === OPEN) phase[0] = event.t;
      this.settle(task);
    }

    close(attempt, event) {
      if (attempt.end === OPEN || attempt.word === "expired") {
        attempt.end = event.t;
        attempt.word = event.word;
      }
      this.running.delete(attempt);
      attempt.worker.running.delete(attempt);
    }

    /** What the last sample says of a running attempt, or null. */
    progress(attempt) {
      const running = this.status && this.status.running;
      return (running && running.find((each) => each.attempt === attempt.name)) || null;
    }

    /** [from, to, amount] of running attempts, for Rate.perSecond: `what` is bytes_done or records. */
    underWay(kind, what) {
      const found = [];
      for (const each of (!this.end && this.status && this.status.running) || []) {
        const attempt = this.attempts.get(each.attempt);
        if (!attempt || attempt.end !== OPEN || attempt.task.kind !== kind) continue;
        found.push([attempt.start, this.statusAt, each[what] || 0]);
      }
      return found;
    }

    /** How long it takes or took without waiting for maps or for a turn. */
    ownTime(attempt, now) {
      const end = attempt.end ?? now;
      const parts = attempt.done?.seconds;
      if (parts) return end - attempt.start - (parts.maps || 0) - (parts.turn || 0);
      const ready = this.done("m") === this.maps.length ? this.phases.m[1] ?? 0 : Infinity;
      return Math.max(0, end - (attempt.task.kind === "r" ? Math.max(attempt.start, ready) : attempt.start));
    }

    /** How long the accepted ones of its kind that began about when it did took by themselves; 0 until three have been. */
    median(attempt) {
      const all = this.durations[attempt.task.kind];
      if (all.length < 3) return 0;
      if (all.sorted !== all.length) {
        all.sort((one, other) => one[0] - other[0]);
        all.sorted = all.length;
      }
      let low = 0;
      for (let high = all.length; low < high;) {
        const middle = (low + high) >> 1;
        if (all[middle][0] < attempt.start) low = middle + 1;
        else high = middle;
      }
      const first = Math.max(0, Math.min(low - NEIGHBOURS, all.length - 2 * NEIGHBOURS));
      const near = Float64Array.from(all.slice(first, first + 2 * NEIGHBOURS), (each) => each[1]).sort();
      return near[near.length >> 1];
    }

    /** How long one of its kind, and of its input's size, should take. */
    usual(attempt) {
      const mean = (this.planned?.bytes_in || 0) / (this.maps.length || 1);
      return this.median(attempt) * Math.max(1, mean ? attempt.task.bytes / mean : 1);
    }

    /** Whether an attempt takes or took far longer than its like. */
    isStraggler(attempt, now) {
      const usual = this.usual(attempt);
      const own = this.ownTime(attempt, now);
      return usual > 0 && own > 2 * usual && own - usual > 0.25;
    }

    /** The part of the job that is done, below 1 until it is committed; of maps and reduces each counts as half. */
    fraction() {
      if (this.state === "COMMITTED") return 1;
      const share = (kind) => (this.tasks(kind).length ? this.done(kind) / this.tasks(kind).length : 0);
      return this.planned ? Math.min(0.99, 0.5 * share("m") + 0.5 * share("r")) : 0;
    }
  }

  const FOLDS = {
    job: (model, event) => { model.job = event; },
    planned(model, event) {
      model.planned = event;
      model._grow("m", Math.min(event.maps || 0, 1e6));
      model._grow("r", Math.min(event.reduce_tasks ?? event.reduces ?? 0, 1e5));
    },
    worker(model, event) {
      Object.assign(model.worker(event.worker), { slots: event.slots || 0, gone: OPEN });
    },
    gone: (model, event) => { model.worker(event.worker).gone = event.t; },
    started: (model, event) => model.open(event, false),
    adopted: (model, event) => model.open(event, true),
    ended(model, event) {
      const attempt = model.attempts.get(event.attempt);
      if (!attempt) return;
      const { task, worker } = attempt;
      model.close(attempt, event);
      if (event.word === "accepted") {
        attempt.word = "accepted";
        attempt.done = event;
        task.accepted = attempt;
        worker.accepted++;
        worker.records += event.records_in || 0;
        model.durations[task.kind].push([attempt.start, model.ownTime(attempt, attempt.end)]);
        const bytes = task.kind === "m" ? event.bytes_in : event.size;
        model.bytes[task.kind].add(attempt.start, attempt.end, bytes || 0);
        model.records[task.kind].add(attempt.start, attempt.end, event.records_in || 0);
      } else if (event.word === "failed") {
        attempt.failure = event;
        task.trouble++;
        worker.failed++;
        model.failures.push(attempt);
        if (event.fatal) task.fatal = true;
      } else if (event.word === "expired") task.trouble++;
      model.settle(task);
      if (task.state === "done" && model.done(task.kind) === model.tasks(task.kind).length) {
        model.phases[task.kind][1] = event.t;
      }
    },
    back(model, event) {
      const attempt = model.attempts.get(event.attempt);
      if (!attempt || attempt.word !== "expired") return;
      Object.assign(attempt, { end: OPEN, word: "" });
      attempt.task.notes.push({ t: event.t, text: `${attempt.name} came back: its lease is renewed` });
      model.running.add(attempt);
      attempt.worker.running.add(attempt);
      model.settle(attempt.task);
    },
    restored(model, event) {
      for (const [kind, ranges] of [["m", event.maps], ["r", event.reduces]]) {
        for (const [first, end] of ranges || []) {
          model._grow(kind, Math.min(end, 1e6));
          for (let index = first; index < end; index++) {
            const task = model.tasks(kind)[index];
            task.restored = true;
            model.settle(task);
          }
        }
      }
    },
    lost(model, event) {
      again(model, event, `the output of ${event.attempt} is gone${event.why ? `: ${event.why}` : ""}`);
    },
    rolled_back: (model, event) => again(model, event, `${event.attempt} is taken back: a map that it read ran again`),
    sample(model, event) {
      model.status = event.status || {};
      model.statusAt = event.t;
    },
    shuffle: (model, event) => { model.shuffle = event; },
    hot: (model, event) => { model.hot = event; },
    printed(model, event) {
      const task = model.task(event.task);
      if (task) task.printed++;
      model.printed.push(event);
      if (model.printed.length > PRINTED_MAX) {
        model.printed.shift();
        model.printedLeftOut++;
      }
    },
    left_out: (model, event) => { model.leftOut = event.events; },
    end(model, event) {
      model.end = event;
      for (const attempt of model.running) Object.assign(attempt, { end: event.t, word: "ended" });
      model.running.clear();
      for (const worker of model.workers.values()) worker.running.clear();
      const task = model.find(event.task);
      if (event.state === "FAILED" && task) task.fatal = true;
      for (const kind of ["m", "r"]) for (const each of model.tasks(kind)) model.settle(each);
    },
  };

  function again(model, event, text) {
    const task = model.task(event.task);
    if (!task) return;
    task.accepted = null;
    task.restored = false;
    task.trouble++;
    task.notes.push({ t: event.t, text });
    model.lost.push({ t: event.t, task, text });
    model.phases[task.kind][1] = OPEN;
    model.settle(task);
  }

  globalThis.mrfast = { Model, STATES, STATE_WORDS };
})();
