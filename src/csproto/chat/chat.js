// The chat's front end, for the notebook (anywidget calls `render`) and for the page (page.js calls `createChat`).
// No build step, no inline script or style, no markup from text: whatever anybody wrote goes in by textContent.

const NEAR_END = 48; // pixels from the end within which the reader counts as following
const ICONS = { // drawn, because not every machine has a font with these signs
  copy: "M8 8h11v11H8z M5 16V5h11",
  up: "M7 11l4-8c2 0 3 1 3 3v3h5l-2 10H7z M3 11h4v8H3z", down: "M17 13l-4 8c-2 0-3-1-3-3v-3H5L7 5h10z M21 13h-4V5h4z",
  retry: "M20 12a8 8 0 1 1-3-6 M20 3v5h-5", new: "M12 5v14 M5 12h14", json: "M12 4v11 M7 11l5 5l5-5 M5 20h14", markdown: "M12 4v11 M7 11l5 5l5-5 M5 20h14",
};
const LATE = 2000; // ms without a sign of life after which the panel says that it waits

// ---- messages: the same steps as messages.py

export function applyStep(message, step) {
  if (step.step === "triage") {
    const { triage, sure, runner_up } = step;
    Object.assign(message, { triage, sure, runner_up });
  } else if (step.step === "decision") message.decisions.push(step.decision);
  else if (step.step === "token") message.reply += step.text;
  else if (step.step === "done") Object.assign(message, step.turn, { state: "done" });
  else if (step.step === "stopped") message.state = "stopped";
  else if (step.step === "failed") {
    message.state = "failed";
    message.error = { code: step.code, reason: step.reason };
  }
  return message;
}

// ---- small pieces of DOM

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "csp-icon", "aria-hidden": "true" })) svg.setAttribute(key, value);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

function setText(element, text) {
  const node = element.firstChild;
  if (!node) element.append(document.createTextNode(text));
  else if (text !== node.data) {
    if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
    else node.data = text;
  }
}

// ---- one message and its answer

class TurnView {
  constructor(chat) {
    this.chat = chat;
    this.userText = make("div", { class: "csp-text" });
    this.userActions = make("div", { class: "csp-actions" });
    this.botText = make("div", { class: "csp-text" });
    this.error = make("div", { class: "csp-error", hidden: true });
    this.badges = make("ul", { class: "csp-badges", hidden: true });
    this.summary = make("summary");
    this.traceBody = make("div", { class: "csp-trace-body" });
    this.trace = make("details", { class: "csp-trace", hidden: true }, this.summary, this.traceBody);
    this.choices = make("div", { class: "csp-chips csp-choices", role: "group", hidden: true });
    this.botActions = make("div", { class: "csp-actions" });
    this.user = make("div", { class: "csp-bubble csp-user" }, this.userText);
    this.bot = make("div", { class: "csp-bubble csp-bot" }, this.botText, this.error, this.trace, this.badges);
    this.node = make("article", { class: "csp-turn" }, this.user, this.userActions, this.bot, this.choices, this.botActions);
  }

  update(message, isLast, busy) {
    const key = JSON.stringify([message, isLast, busy, this.chat.language]);
    if (key === this.key) return;
    this.key = key;
    const w = this.chat.w;
    this.node.dataset.state = message.state;
    this.node.dataset.id = message.id;
    this.node.setAttribute("aria-label", [w.you, this.time(message, {})].filter(Boolean).join(", "));
    setText(this.userText, message.text);
    const stopped = message.state === "stopped" ? `${message.reply ? " " : ""}[${w.stopped}]` : "";
    setText(this.botText, message.reply + stopped);
    this.bot.classList.toggle("csp-thinking", message.state === "running" && !message.reply);
    this.showError(message);
    this.showTrace(message);
    this.showBadges(message);
    this.showChoices(message, isLast && !busy);
    this.showActions(message, isLast, busy);
  }

  showError(message) {
    const w = this.chat.w;
    this.error.hidden = !message.error;
    if (!message.error) return;
    const code = message.error.code;
    const detail = message.error.reason
      ? make("details", {}, make("summary", {}, w.details), make("p", {}, `${code}: ${message.error.reason}`)) : null;
    this.error.replaceChildren(
      make("strong", {}, w.failed), make("p", {}, w.errors[code] || w.errors.internal), ...(detail ? [detail] : []));
  }

  showTrace(message) {
    const w = this.chat.w;
    this.trace.hidden = !message.triage;
    if (!message.triage) return;
    const rules = message.decisions.map((decision) => decision.rule).join(", ");
    setText(this.summary, rules ? `${w.why} · ${rules}` : w.why);
    this.traceBody.replaceChildren(
      this.chat.heading(w.understood), this.understood(message),
      ...message.triage.wishes.map((wish) => this.wishTrace(wish)),
      ...message.decisions.map((decision) => this.decisionTrace(decision)));
  }

  understood(message) {
    const { w } = this.chat;
    const { triage, sure, runner_up: other } = message;
    const parts = [w.acts[triage.act]];
    if (sure !== null) parts.push(`${w.sure} ${Math.floor(1000 * sure) / 10} %`); // never rounded up to 100
    if (other) parts.push(`${w.runner_up}: ${w.intents[other] || other}`);
    return make("p", { class: "csp-sure" }, parts.join(" · "));
  }

  wishTrace({ intent, orders, ...slots }) {
    const { w } = this.chat;
    const details = orders.length ? { [w.fact_names.order]: orders.join(", "), ...slots } : slots;
    return make("div", { class: "csp-wish" },
      make("p", {}, `${w.intents[intent] || intent} `, make("code", {}, intent)), list(details));
  }

  decisionTrace(decision) {
    const { w, heading } = this.chat;
    const { rule, action, source, order, facts, write } = decision;
    const named = Object.entries(facts).map(([name, value]) => [w.fact_names[name] || name, value]);
    return make("div", { class: "csp-part" },
      heading(order ? `${w.rule} · ${w.fact_names.order} ${order}` : w.rule),
      make("p", { class: "csp-rule" }, make("code", {}, rule), " → ", make("code", {}, action)),
      make("p", { class: "csp-source" }, source),
      heading(w.written),
      make("p", { class: "csp-written" }, write ? w.writes[write] || write : w.nothing_written),
      ...(named.length ? [heading(w.facts), list(Object.fromEntries(named))] : []));
  }

  showChoices(message, open) { // gone as soon as the next message is sent
    this.choices.hidden = !open || message.state !== "done" || !message.choices.length;
    this.choices.setAttribute("aria-label", this.chat.w.choose);
    this.choices.replaceChildren(...(this.choices.hidden ? [] : message.choices.map(
      ({ label, text }) => this.chat.chip(label, () => this.chat.say(text)))));
  }

  time(message, options) {
    return message.at && new Date(message.at).toLocaleTimeString(this.chat.language, options);
  }

  showBadges(message) {
    const w = this.chat.w;
    const usage = message.usage;
    this.badges.hidden = !usage;
    if (!usage) return;
    const badge = (name, text) => make("li", { class: `csp-badge csp-badge-${name}` }, text);
    this.badges.replaceChildren(
      badge("ttft", `${w.ttft} ${milliseconds(usage.ttft_ms)}`), badge("total", `${w.total} ${milliseconds(usage.total_ms)}`),
      badge("prompt", `${w.tokens} ${usage.prompt_tokens}`),
      badge("cached", `${w.cached} ${usage.cached_tokens} (${Math.round((100 * usage.cached_tokens) / Math.max(1, usage.prompt_tokens))} %)`));
  }

  showActions(message, isLast, busy) {
    const { chat } = this;
    const w = chat.w;
    const running = message.state === "running";
    const time = this.time(message, { hour: "2-digit", minute: "2-digit" });
    this.userActions.replaceChildren(
      ...(time ? [make("time", { datetime: message.at }, time)] : []),
      chat.button("copy", w.copy, () => chat.copy(message.text)));
    const rate = (name, label, value) => {
      const button = chat.button(name, label, () => chat.rate(message, value));
      button.setAttribute("aria-pressed", String(message.rating === value));
      return button;
    };
    const unanswered = isLast && !busy && message.state !== "done";
    this.botActions.replaceChildren(
      ...(message.reply && !running ? [chat.button("copy", w.copy, () => chat.copy(message.reply))] : []),
      ...(message.decisions.length && !running ? [rate("up", w.up, 1), rate("down", w.down, -1)] : []),
      ...(unanswered ? [chat.button("retry", w.retry, () => chat.say(message.text), w.retry)] : []));
  }
}

function list(entries) {
  return make("dl", { class: "csp-facts" }, ...Object.entries(entries).flatMap(
    ([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
}

function milliseconds(value) {
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

// ---- the whole chat

let chats = 0;

class Chat {
  constructor(root, host) {
    Object.assign(this, { root, host, views: new Map(), messages: [], live: null, info: null, alive: true, waiting: null });
    this.following = true;
    this.language = host.language || (navigator.language.startsWith("zh") ? "zh" : "en");
    this.build();
    this.setLanguage(this.language, false);
  }

  get w() {
    return this.host.words[this.language];
  }

  get busy() {
    return Boolean(this.live) || Boolean(this.waiting) || Boolean(this.info?.busy); // an answer is over once it stands among the messages
  }

  build() {
    const level = this.host.kind === "page" ? 1 : 3; // inside a notebook's own headings
    this.title = make(`h${level}`, { class: "csp-title" });
    this.heading = (text) => make(`h${level + 1}`, {}, text);
    this.engine = make("span", { class: "csp-engine" });
    this.customers = make("select", { class: "csp-customer", onchange: () => this.act({ type: "new", customer: this.customers.value }) });
    this.tools = make("div", { class: "csp-tools" });
    this.log = make("div", { class: "csp-log", role: "log", "aria-live": "polite", "aria-relevant": "additions text", "aria-busy": "false", tabindex: "0", onscroll: () => this.onScroll() });
    this.newest = make("button", { type: "button", class: "csp-newest", hidden: true, onclick: () => this.toEnd() });
    this.greeting = make("p");
    this.chips = make("div", { class: "csp-chips", role: "group" });
    this.welcome = make("div", { class: "csp-welcome" }, this.greeting, this.chips);
    this.hint = make("span", { class: "csp-hint", id: `csp-hint-${(chats += 1)}` });
    this.status = make("div", { class: "csp-status", role: "status", "aria-live": "polite" });
    this.input = make("textarea", { class: "csp-input", rows: "1", maxlength: "2000", "aria-describedby": this.hint.id, oninput: () => { this.fit(); this.check(); }, onfocus: () => this.check() });
    this.sendButton = make("button", { type: "submit", class: "csp-send" });
    this.stopButton = make("button", { type: "button", class: "csp-stop", hidden: true, onclick: () => this.stop() });
    this.form = make("form", { class: "csp-form" }, this.input, this.sendButton, this.stopButton);
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
    this.root.classList.add("csp");
    this.root.dataset.host = this.host.kind;
    this.root.setAttribute("data-lm-suppress-shortcuts", "true"); // the notebook's shortcuts stay out
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.root.replaceChildren(
      make("div", { class: "csp-head" }, this.title, this.engine, this.tools),
      make("div", { class: "csp-body" }, this.log, this.welcome, this.newest), this.form, make("div", { class: "csp-foot" }, this.status, this.hint));
    this.watch = setInterval(() => { if (this.info && !this.info.engine.ok && !this.busy && !document.hidden) this.check(true); }, 3000);
  }

  button(name, label, onclick, text = "") {
    return make("button", { type: "button", class: `csp-button csp-do-${name}`, title: label, "aria-label": label, onclick },
      icon(name), text ? make("span", { class: "csp-label" }, text) : null);
  }

  chip(label, onclick) {
    return make("button", { type: "button", class: "csp-chip", onclick }, label);
  }

  setLanguage(language, tell = true) {
    this.language = language;
    const w = this.w;
    this.root.lang = language === "zh" ? "zh-CN" : "en";
    setText(this.title, w.title);
    this.root.setAttribute("role", "region");
    this.root.setAttribute("aria-label", w.title);
    this.log.setAttribute("aria-label", w.conversation);
    this.input.setAttribute("aria-label", w.message);
    this.input.placeholder = w.placeholder;
    this.customers.setAttribute("aria-label", w.customer);
    this.chips.setAttribute("aria-label", w.examples);
    setText(this.greeting, w.welcome);
    setText(this.hint, w.hint);
    setText(this.sendButton, w.send);
    setText(this.stopButton, w.stop);
    setText(this.newest, `↓ ${w.newest}`);
    const other = language === "zh" ? "en" : "zh";
    this.keepFocus(() => this.tools.replaceChildren(
      this.customers, this.button("new", w.new, () => this.act({ type: "new" })),
      this.button("json", w.json, () => this.act({ type: "export", form: "json", language: this.language }, false), "JSON"),
      this.button("markdown", w.markdown, () => this.act({ type: "export", form: "markdown", language: this.language }, false), "Markdown"),
      make("button", { type: "button", class: "csp-button csp-do-language", lang: other, "aria-label": w.language_label, onclick: () => this.setLanguage(other) }, w.language)));
    this.chips.replaceChildren(...w.try.map((text) => this.chip(text, () => this.say(text))));
    if (tell) this.host.setLanguage(language);
    this.host.speaks?.(language);
    this.draw();
  }

  // -- what the host reports

  receive(event) {
    if (event.type === "alive") this.setAlive(true);
    else if (event.type === "dead") this.setAlive(false);
    else if (event.type === "info") { this.info = event.info; this.settle(); }
    else if (event.type === "messages") { this.messages = event.messages; this.settle(); }
    else if (event.type === "snapshot") this.live = event.message?.state === "running" ? structuredClone(event.message) : null;
    else if (event.type === "step") this.onStep(event.step);
    else if (event.type === "settled") this.clearWaiting();
    else if (event.type === "problem") { this.clearWaiting(); this.announce(this.w.errors[event.code] || this.w.errors.internal); }
    else if (event.type === "file") save(event);
    this.draw();
  }

  onStep(step) {
    if (step.step === "start") this.begin(step.message);
    else if (this.live) applyStep(this.live, step);
    const saying = { start: "reading", triage: "deciding", decision: "writing", done: "done", stopped: "stopped", failed: "failed" }[step.step];
    if (saying) this.announce(this.w[saying]);
  }

  begin(message) {
    this.clearWaiting();
    const last = this.messages.at(-1); // one that is sent again takes the place of the one without an answer
    if (last && last.state !== "done" && last.text === message.text) this.messages = this.messages.slice(0, -1);
    this.live = structuredClone(message);
    this.following = true;
  }

  settle() {
    if (this.live && this.messages.some((m) => m.id === this.live.id)) this.live = null;
    if (!this.info?.busy) this.clearWaiting();
  }

  setAlive(alive) {
    this.alive = alive;
    if (!alive) { this.live = null; this.clearWaiting(); }
    this.announce(alive ? this.w.ready : this.w.no_kernel);
  }

  // -- what the person does

  submit() {
    const text = this.input.value.trim();
    if (!text || this.busy || !this.alive) return;
    this.input.value = "";
    this.fit();
    this.say(text);
  }

  say(text) {
    if (this.busy || !this.alive) return;
    this.act({ type: "send", text });
  }

  act(command, changes = true) {
    if (changes) {
      this.waiting = setTimeout(() => { if (!this.live) this.announce(this.host.kind === "notebook" ? this.w.waiting : this.w.reading); }, LATE);
      this.announce("");
      this.following = true;
    }
    this.host.send(command);
    this.drawNow(); // at once: a second Enter meets a chat that is busy
  }

  stop() {
    this.announce(this.w.stopping);
    this.host.send({ type: "stop" });
    this.input.focus();
  }

  rate(message, value) {
    this.host.send({ type: "rate", id: message.id, rating: message.rating === value ? 0 : value });
    this.announce(this.w.rated);
  }

  async copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no permission, or no secure context: the old way
      const area = make("textarea", { class: "csp-offscreen" });
      area.value = text;
      this.root.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    this.announce(this.w.copied);
  }

  onKey(event) {
    event.stopPropagation();
    const composing = event.isComposing || event.keyCode === 229;
    if (event.key === "Escape" && !composing && this.busy) this.stop();
    if (event.target === this.input && event.key === "Enter" && !event.shiftKey && !composing) {
      event.preventDefault();
      this.submit();
    }
  }

  check(force = false) {
    if (!force && Date.now() - (this.checkedAt || 0) < 5000) return;
    this.checkedAt = Date.now();
    this.host.send({ type: "check" });
  }

  // -- showing it

  announce(text) {
    setText(this.status, text);
  }

  clearWaiting() {
    clearTimeout(this.waiting);
    this.waiting = null;
  }

  fit() {
    this.input.rows = 1;
    while (this.input.rows < 6 && this.input.scrollHeight > this.input.clientHeight) this.input.rows += 1; // lines that wrap count too
  }

  draw() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.keepFocus(() => this.redraw());
  }

  keepFocus(work) { // buttons are made anew: whoever steers by keyboard stays on the same one, or else goes on writing
    const focused = this.root.getRootNode().activeElement;
    const place = this.root.contains(focused) ? focused.parentElement : null;
    work();
    if (!place || (focused.isConnected && !focused.disabled && focused.checkVisibility())) return;
    const name = [...focused.classList].find((word) => word.startsWith("csp-do-"));
    const again = name && place.isConnected && place.querySelector(`.${name}`);
    (again || this.input).focus({ preventScroll: true });
  }

  redraw() {
    const all = this.live ? [...this.messages, this.live] : this.messages;
    const seen = new Set();
    let place = this.log.firstChild;
    for (const message of all) {
      seen.add(message.id);
      const view = this.view(message);
      view.update(message, message === all.at(-1), this.busy || !this.alive);
      if (view.node !== place) this.log.insertBefore(view.node, place);
      else place = place.nextSibling;
    }
    for (const [id, view] of this.views) if (!seen.has(id)) { view.node.remove(); this.views.delete(id); }
    this.log.setAttribute("aria-busy", String(this.live?.state === "running"));
    this.drawControls(all.length);
    if (this.following) this.log.scrollTop = this.log.scrollHeight;
    this.newest.hidden = this.following || this.atEnd();
  }

  view(message) {
    if (!this.views.has(message.id)) this.views.set(message.id, new TurnView(this));
    return this.views.get(message.id);
  }

  drawControls(count) {
    const { info, w } = this;
    this.welcome.hidden = count > 0;
    this.sendButton.hidden = this.busy;
    this.sendButton.disabled = !this.alive;
    this.stopButton.hidden = !this.busy;
    for (const chip of this.chips.children) chip.disabled = this.busy || !this.alive;
    if (!info) return;
    const down = this.host.kind === "notebook" ? w.engine_down : w.engine_down_page;
    this.root.classList.toggle("csp-down", !info.engine.ok || !this.alive);
    setText(this.engine, info.engine.ok ? info.engine.model : w.engine_off);
    this.engine.title = info.engine.ok ? w.engine_up : down;
    if (!info.engine.ok && !this.wasDown) this.announce(down);
    if (info.engine.ok && this.wasDown) this.announce(w.engine_up);
    this.wasDown = !info.engine.ok;
    this.drawCustomers(info);
  }

  drawCustomers(info) {
    this.customers.hidden = !info.customers.length;
    this.customers.disabled = Boolean(this.live) || !this.alive; // not while a choice is carried out: arrow keys go on choosing
    const key = JSON.stringify(info.customers);
    if (key !== this.customersKey) {
      this.customersKey = key;
      this.customers.replaceChildren(...info.customers.map((c) => make("option", { value: c.id }, `${c.id} ${c.name}`)));
    }
    this.customers.value = info.customer;
  }

  atEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR_END;
  }

  onScroll() {
    this.following = this.atEnd();
    this.newest.hidden = this.following;
  }

  toEnd() {
    this.following = true;
    this.log.focus();
    this.drawNow();
  }

  dispose() {
    clearInterval(this.watch);
    this.clearWaiting();
    cancelAnimationFrame(this.frame);
  }
}

function save({ name, mime, text }) {
  const url = URL.createObjectURL(new Blob([text], { type: mime }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

export function createChat(root, host) {
  const chat = new Chat(root, host);
  return { receive: (event) => chat.receive(event), dispose: () => chat.dispose() };
}

// ---- the notebook's way: numbered messages through the widget's channel

function render({ model, el }) {
  let number = null; // of the last step; null until a snapshot has said where we are
  let answered = true;
  let timer = 0;
  const tell = (content) => {
    try {
      model.send(content);
    } catch {
      chat.receive({ type: "dead" });
    }
  };
  const greet = () => {
    answered = false;
    tell({ type: "ready" });
    clearTimeout(timer);
    timer = setTimeout(() => { if (!answered) chat.receive({ type: "dead" }); }, 8000);
  };
  const host = {
    kind: "notebook",
    words: model.get("words"),
    language: model.get("language"),
    send: tell,
    setLanguage(language) {
      model.set("language", language);
      model.save_changes();
    },
  };
  const onMessage = (content) => {
    if (content.type === "step") {
      if (number !== null && content.number === number + 1) {
        number = content.number;
        chat.receive(content);
      } else if (number === null || content.number > number) {
        number = null;
        tell({ type: "snapshot" });
      }
    } else if (content.type === "snapshot") {
      number = content.number;
      chat.receive(content);
    } else {
      if (content.type === "alive") answered = true;
      chat.receive(content);
    }
  };
  const onMessages = () => chat.receive({ type: "messages", messages: model.get("messages") });
  const onInfo = () => chat.receive({ type: "info", info: model.get("info") });
  const chat = createChat(el, host);
  model.on("msg:custom", onMessage);
  model.on("change:messages", onMessages);
  model.on("change:info", onInfo);
  model.on("comm_live_update", greet);
  onMessages();
  onInfo();
  timer = setTimeout(greet, 600); // earlier ones may wait for the cell that is showing us
  return () => {
    clearTimeout(timer);
    model.off("msg:custom", onMessage);
    model.off("change:messages", onMessages);
    model.off("change:info", onInfo);
    model.off("comm_live_update", greet);
    chat.dispose();
  };
}

export default { render };
