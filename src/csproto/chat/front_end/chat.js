// ---- the whole chat

const NEAR_END = 48; // pixels from the end within which the reader counts as following
const LATE = 2000; // ms without a sign of life after which the panel says that it waits
const EXAMPLES = 3; // suggestions from the customer's orders on the first screen
let chats = 0;

class Chat {
  constructor(root, host) {
    Object.assign(this, { host, views: new Map(), messages: [], tickets: [], live: null, info: null, alive: true, waiting: null, asked: null });
    this.following = true;
    this.language = host.language || (navigator.language.startsWith("zh") ? "zh" : "en");
    this.face = kept.get(`${host.kind}-face`) || (host.kind === "page" ? "customer" : "builder");
    this.theme = kept.get(`${host.kind}-theme`) || "system";
    this.number = chats += 1;
    this.root = make("div", { class: "csp", "data-host": host.kind, role: "region" });
    this.build();
    const shadow = root.shadowRoot || root.attachShadow({ mode: "open" }); // the host's own styles stay out
    const styles = new CSSStyleSheet();
    styles.replaceSync(host.styles || "");
    shadow.adoptedStyleSheets = [styles];
    shadow.replaceChildren(this.root);
    root.classList.add("csp-host");
    root.setAttribute("data-lm-suppress-shortcuts", "true"); // and so do the notebook's shortcuts
    this.watchTheme();
    this.setLanguage(this.language, false);
  }

  get w() { return this.host.words[this.language]; }
  get builder() { return this.face === "builder"; }
  get busy() { // an answer is over once it stands among the messages
    return Boolean(this.live) || Boolean(this.waiting) || Boolean(this.info?.busy);
  }

  build() {
    const level = this.host.kind === "page" ? 1 : 3; // inside a notebook's own headings
    this.heading = (text) => make(`h${level + 1}`, {}, text);
    this.title = make(`h${level}`, { class: "csp-title" });
    this.engine = make("span", { class: "csp-engine" });
    this.customers = make("select", { class: "csp-customer", onchange: () => this.begin(this.customers.value) });
    this.menu = new Menu(this);
    this.tools = make("div", { class: "csp-buttons" });
    this.notes = make("ul", { class: "csp-notes" });
    this.log = make("div", { class: "csp-log", role: "log", "aria-live": "polite", "aria-relevant": "additions text", "aria-busy": "false", tabindex: "0", onscroll: () => this.onScroll() });
    this.newest = make("button", { type: "button", class: "csp-newest", hidden: true, onclick: () => this.toEnd() });
    [this.hello, this.greeting] = [make("p", { class: "csp-hello" }), make("p")];
    this.chips = make("div", { class: "csp-chips", role: "group" });
    this.welcome = make("div", { class: "csp-welcome" }, make("span", { class: "csp-mark" }, icon("assistant")), this.hello, this.greeting, this.chips);
    this.question = make("div", { class: "csp-ask", role: "alertdialog", "aria-labelledby": `csp-ask-${this.number}`, hidden: true });
    this.hint = make("span", { class: "csp-hint", id: `csp-hint-${this.number}` });
    this.status = make("div", { class: "csp-status", role: "status", "aria-live": "polite" });
    this.input = make("textarea", { class: "csp-input", rows: "1", maxlength: "2000", "aria-describedby": this.hint.id, oninput: () => { this.fit(); this.check(); }, onfocus: () => this.check() });
    this.sendButton = make("button", { type: "submit", class: "csp-send" });
    this.stopButton = make("button", { type: "button", class: "csp-stop", hidden: true, onclick: () => this.stop() });
    this.form = make("form", { class: "csp-form" }, this.input, this.sendButton, this.stopButton);
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
    this.orders = new Orders(this);
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.root.addEventListener("click", (event) => this.onClick(event));
    this.root.replaceChildren(
      make("div", { class: "csp-head" }, make("div", { class: "csp-names" }, this.title, this.engine),
        make("div", { class: "csp-tools" }, this.customers, this.tools, this.menu.node)),
      make("div", { class: "csp-main" },
        make("div", { class: "csp-chat" },
          make("div", { class: "csp-body" }, this.log, this.welcome, this.newest), this.question, this.form,
          make("div", { class: "csp-foot" }, this.status, this.hint)),
        this.orders.node));
    this.watch = setInterval(() => { if (this.info && !this.info.engine.ok && !this.busy && !document.hidden) this.check(true); }, 3000);
  }

  button(name, label, onclick, text = "") {
    return make("button", { type: "button", class: `csp-button csp-do-${name}`, title: label, "aria-label": label, onclick },
      icon(name), text ? make("span", { class: "csp-label" }, text) : null);
  }

  chip(label, onclick, disabled = false) { return make("button", { type: "button", class: "csp-chip", onclick, disabled }, label); }

  setLanguage(language, tell = true) {
    this.language = language;
    const { w } = this;
    this.root.lang = language === "zh" ? "zh-CN" : "en";
    this.input.placeholder = w.placeholder;
    const labels = [[this.root, w.title], [this.log, w.conversation], [this.input, w.message], [this.customers, w.customer], [this.chips, w.examples]];
    for (const [element, label] of labels) element.setAttribute("aria-label", label);
    const texts = [[this.title, w.title], [this.greeting, w.welcome], [this.hint, w.hint], [this.sendButton, w.send], [this.stopButton, w.stop]];
    for (const [element, text] of [...texts, [this.newest, `↓ ${w.newest}`]]) setText(element, text);
    const other = language === "zh" ? "en" : "zh";
    const orders = this.button("orders", w.orders, () => this.showDrawer(!this.root.classList.contains("csp-drawer")), w.orders);
    this.keepFocus(() => this.tools.replaceChildren(
      orders, this.button("new", w.new, () => this.begin()),
      make("button", { type: "button", class: "csp-button csp-do-language", lang: other, "aria-label": w.language_label, onclick: () => this.setLanguage(other) }, w.language)));
    if (this.said) this.announce(this.said);
    if (tell) this.host.setLanguage(language);
    this.host.speaks?.(language);
    this.draw();
  }

  choose(name, value) { // face or theme
    this[name] = value;
    kept.set(`${this.host.kind}-${name}`, value);
    this.paint();
    this.draw();
  }

  watchTheme() { // of the system, and of the notebook around us
    this.darkSystem = matchMedia("(prefers-color-scheme: dark)");
    this.darkSystem.onchange = () => this.paint();
    this.hostTheme = new MutationObserver(() => this.paint());
    this.hostTheme.observe(document.body, { attributes: true });
    this.paint();
  }

  paint() {
    const { dataset, classList } = document.body;
    const isDark = this.host.kind === "page" ? this.darkSystem.matches
      : dataset.jpThemeLight === "false" || classList.contains("vscode-dark") || classList.contains("vscode-high-contrast");
    const dark = this.theme === "system" ? isDark : this.theme === "dark";
    this.root.dataset.theme = dark ? "dark" : "light";
    this.root.classList.toggle("csp-contrast", /high.?contrast/i.test(`${dataset.jpThemeName} ${document.body.className}`));
    this.host.paints?.(this.root.dataset.theme);
  }

  // -- what the host reports

  receive(event) {
    if (event.type === "alive" || event.type === "dead") this.setAlive(event.type === "alive");
    else if (event.type === "tickets") this.tickets = event.tickets;
    else if (event.type === "info" || event.type === "messages") { this[event.type] = event[event.type]; this.settle(); }
    else if (event.type === "orders") this.orders.receive(event.orders);
    else if (event.type === "conversations") this.menu.earlier = event.conversations;
    else if (event.type === "snapshot") this.live = event.message?.state === "running" ? structuredClone(event.message) : null;
    else if (event.type === "step") this.onStep(event.step);
    else if (event.type === "settled") { this.clearWaiting(); if (this.said === "stopping") this.announce("stopped"); }
    else if (event.type === "problem") { this.clearWaiting(); this.announce(`errors.${event.code}`); }
    else if (event.type === "file") save(event);
    this.draw();
  }

  onStep(step) {
    if (step.step === "start") this.onStart(step.message);
    else if (this.live) applyStep(this.live, step);
    if (step.step === "waiting") this.place = step.place;
    const saying = { waiting: "queued", start: "reading", triage: "deciding", decision: "writing", done: "done", stopped: "stopped", failed: "failed" }[step.step];
    if (saying) this.announce(saying);
  }

  onStart(message) {
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
    this.announce(alive ? "ready" : "no_kernel");
  }

  // -- what the person does

  submit() {
    const text = this.input.value.trim();
    if (!text || this.busy || !this.alive) return;
    this.input.value = "";
    this.fit();
    this.say(text);
  }

  say(text) { if (!this.busy && this.alive) this.act({ type: "send", text }); }

  begin(customer = null) { // a new conversation, of another customer if one is chosen
    const go = () => this.act({ type: "new", customer });
    if (this.messages.length || this.live) this.ask(customer ? "ask_customer" : "ask_new", go);
    else go();
  }

  ask(question, action) {
    const done = (yes) => {
      this.asked = null;
      this.question.hidden = true;
      this.input.focus();
      if (yes) action();
      this.draw();
    };
    this.asked = done;
    this.question.replaceChildren(make("span", { id: `csp-ask-${this.number}` }, this.w[question]),
      make("div", { class: "csp-chips" }, this.chip(this.w.yes, () => done(true)), this.chip(this.w.no, () => done(false))));
    this.question.hidden = false;
    this.question.querySelector("button").focus();
  }

  act(command, changes = true) {
    if (changes) {
      this.waiting = setTimeout(() => { if (!this.live) this.announce(this.host.kind === "notebook" ? "waiting" : "reading"); }, LATE);
      this.announce("");
      this.following = true;
    }
    this.host.send(command);
    this.drawNow(); // at once: a second Enter meets a chat that is busy
  }

  stop() { this.announce("stopping"); this.host.send({ type: "stop" }); this.input.focus(); }
  rate({ id }, rating, why = "") { this.host.send({ type: "rate", id, rating, why }); this.announce("rated"); }

  async copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no permission, or no secure context: the old way
      const area = this.root.appendChild(make("textarea", { class: "csp-offscreen" }, text));
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    this.announce("copied");
  }

  onKey(event) {
    event.stopPropagation();
    const composing = event.isComposing || event.keyCode === 229;
    if (event.key === "Escape" && !composing) this.escape();
    if (event.target === this.input && event.key === "Enter" && !event.shiftKey && !composing) {
      event.preventDefault();
      this.submit();
    }
  }

  onClick(event) { // beside what is open
    const path = event.composedPath();
    if (!path.includes(this.menu.node)) this.menu.close();
    if (!path.includes(this.orders.node) && !path.includes(this.tools)) this.showDrawer(false);
  }

  escape() { // the innermost thing that is open
    if (this.asked) this.asked(false);
    else if (this.menu.node.open) this.menu.close(true);
    else if (this.root.classList.contains("csp-drawer")) this.showDrawer(false);
    else if (this.busy) this.stop();
  }

  showDrawer(open) { // on a wide screen the orders are always in sight
    const was = this.root.classList.contains("csp-drawer");
    this.root.classList.toggle("csp-drawer", open);
    const button = this.tools.querySelector(".csp-do-orders");
    button.setAttribute("aria-expanded", String(open));
    if (open !== was) (open ? this.orders.head.querySelector("button") : button).focus();
  }

  check(force = false) {
    if (!force && Date.now() - (this.checkedAt || 0) < 5000) return;
    this.checkedAt = Date.now();
    this.host.send({ type: "check" });
  }

  // -- showing it

  announce(said) { // the name of the words, so that they change with the language
    const { w } = this;
    this.said = said;
    const [, code] = said.split("errors.");
    setText(this.status, code ? w.errors[code] || w.errors.internal : (w[said] || "").replace("{n}", this.place));
  }

  clearWaiting() { clearTimeout(this.waiting); this.waiting = null; }

  fit() {
    this.input.rows = 1;
    while (this.input.rows < 6 && this.input.scrollHeight > this.input.clientHeight) this.input.rows += 1; // lines that wrap count too
  }

  draw() { if (!this.frame) this.frame = requestAnimationFrame(() => this.drawNow()); }

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
    const again = name && (place.isConnected ? place : this.root).querySelector(`.${CSS.escape(name)}`);
    (again || this.input).focus({ preventScroll: true });
  }

  redraw() {
    const all = this.live ? [...this.messages, this.live] : this.messages;
    const seen = new Set();
    let place = this.log.firstChild;
    for (const message of all) {
      seen.add(message.id);
      const view = this.views.get(message.id) || new TurnView(this);
      this.views.set(message.id, view);
      view.update(message, message === all.at(-1), this.busy || !this.alive);
      if (view.node !== place) this.log.insertBefore(view.node, place);
      else place = place.nextSibling;
    }
    for (const [id, view] of this.views) if (!seen.has(id)) { view.node.remove(); this.views.delete(id); }
    this.log.setAttribute("aria-busy", String(this.live?.state === "running"));
    this.drawNotes();
    this.drawControls(all.length);
    if (this.following) this.log.scrollTop = this.log.scrollHeight;
    this.newest.hidden = this.following || this.atEnd();
  }

  drawControls(count) {
    const { info, w } = this;
    const still = !this.busy && this.alive;
    this.root.dataset.face = this.face;
    this.orders.draw(still);
    this.menu.draw();
    this.drawWelcome(count, still);
    this.sendButton.hidden = this.busy;
    this.sendButton.disabled = !this.alive;
    this.stopButton.hidden = !this.busy;
    if (!info) return;
    const down = this.host.kind === "notebook" && this.builder ? "engine_down" : "engine_down_page";
    this.root.classList.toggle("csp-down", !info.engine.ok || !this.alive);
    setText(this.engine, info.engine.ok ? (this.builder && info.engine.model) || w.online : w.engine_off);
    this.engine.title = info.engine.ok ? w.engine_up : w[down];
    if (!info.engine.ok && !this.wasDown) this.announce(down);
    if (info.engine.ok && this.wasDown) this.announce("engine_up");
    this.wasDown = !info.engine.ok;
    this.drawCustomers(info);
  }

  drawNotes() { // what people did with the tickets of this conversation, below its messages
    const time = (at) => new Date(at).toLocaleString(this.language, { dateStyle: "short", timeStyle: "short" });
    const texts = this.tickets.filter(({ state }) => state !== "open").map(({ number, state, at }) => `${number} · ${this.w.progress[state]} · ${time(at)}`);
    if (texts.join() === (this.notes.dataset.key || "")) return; // a screen reader reads what is new only
    this.notes.dataset.key = texts.join();
    this.notes.replaceChildren(...texts.map((text) => make("li", {}, text)));
    if (texts.length) this.log.append(this.notes); else this.notes.remove();
  }

  drawWelcome(count, still) {
    const { w } = this;
    this.welcome.hidden = count > 0;
    const name = this.info?.customers.find(({ id }) => id === this.info.customer)?.name || "";
    setText(this.hello, name ? w.hello_name.replace("{name}", () => name) : w.hello);
    const texts = [...this.orders.examples(EXAMPLES), ...w.try];
    const key = JSON.stringify([texts, still]);
    if (key === this.chipsKey) return;
    this.chipsKey = key;
    this.chips.replaceChildren(...texts.map((text) => this.chip(text, () => this.say(text), !still)));
  }

  drawCustomers(info) {
    this.customers.hidden = !info.customers.length;
    this.customers.disabled = Boolean(this.live) || !this.alive; // not while a choice is carried out: arrow keys go on choosing
    const key = JSON.stringify(info.customers);
    if (key !== this.customersKey) this.customers.replaceChildren(...info.customers.map(({ id, name }) => make("option", { value: id }, `${id} ${name}`)));
    this.customersKey = key;
    if (!this.asked) this.customers.value = info.customer;
  }

  atEnd() { return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR_END; }
  onScroll() { this.following = this.atEnd(); this.newest.hidden = this.following; }
  toEnd() { this.following = true; this.log.focus(); this.drawNow(); }

  dispose() {
    clearInterval(this.watch);
    clearTimeout(this.orders.shine);
    this.clearWaiting();
    this.darkSystem.onchange = null;
    this.hostTheme.disconnect();
    cancelAnimationFrame(this.frame);
  }
}

export const createChat = (root, host) => new Chat(root, host);
