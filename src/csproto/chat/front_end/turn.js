// ---- one message and its answer

class TurnView {
  constructor(chat) {
    this.chat = chat;
    [this.userText, this.botText] = [make("div", { class: "csp-text" }), make("div", { class: "csp-text" })];
    [this.userActions, this.botActions] = [make("div", { class: "csp-actions" }), make("div", { class: "csp-actions" })];
    this.error = make("div", { class: "csp-error", hidden: true });
    this.badges = make("ul", { class: "csp-badges", hidden: true });
    this.trace = new Trace(chat);
    this.choices = make("div", { class: "csp-chips csp-choices", role: "group", hidden: true });
    this.whys = make("div", { class: "csp-chips csp-whys", role: "group", hidden: true });
    this.user = make("div", { class: "csp-bubble csp-user" }, this.userText);
    this.bot = make("div", { class: "csp-bubble csp-bot" }, this.botText, this.error, this.trace.node, this.badges);
    this.node = make("article", { class: "csp-turn" }, this.user, this.userActions, this.bot, this.choices, this.botActions, this.whys);
  }

  update(message, isLast, busy) {
    const { w, language, face } = this.chat;
    const key = JSON.stringify([message, isLast, busy, language, face]);
    if (key === this.key) return;
    this.key = key;
    this.node.dataset.state = message.state;
    this.node.dataset.id = message.id;
    this.node.setAttribute("aria-label", [w.you, this.time(message, {})].filter(Boolean).join(", "));
    setText(this.userText, message.text);
    const stopped = message.state === "stopped" ? `${message.reply ? " " : ""}[${w.stopped}]` : "";
    setText(this.botText, message.reply + stopped);
    this.bot.classList.toggle("csp-thinking", message.state === "running" && !message.reply);
    this.showError(message, isLast);
    this.trace.update(message);
    this.showBadges(message);
    this.showChoices(message, isLast && !busy);
    this.showActions(message, isLast, busy);
    this.showWhys(message);
  }

  showError(message, isLast) { // what to do now is said of the last message only
    const { w, builder } = this.chat;
    this.error.hidden = !message.error;
    if (!message.error) return;
    const { code, reason } = message.error;
    const detail = reason && builder ? make("details", {}, make("summary", {}, w.details), make("p", {}, `${code}: ${reason}`)) : null;
    const advice = isLast ? make("p", {}, w.errors[code] || w.errors.internal) : null;
    this.error.replaceChildren(...[make("strong", {}, w.failed), advice, detail].filter(Boolean));
  }

  showChoices({ state, choices }, open) { // gone as soon as the next message is sent
    this.choices.hidden = !open || state !== "done" || !choices.length;
    this.choices.setAttribute("aria-label", this.chat.w.choose);
    const chips = choices.map(({ label, text }) => this.chat.chip(label, () => this.chat.say(text)));
    this.choices.replaceChildren(...(this.choices.hidden ? [] : chips));
  }

  time(message, options) { return message.at && new Date(message.at).toLocaleTimeString(this.chat.language, options); }

  showBadges({ usage }) {
    const { w, builder } = this.chat;
    this.badges.hidden = !usage || !builder;
    if (this.badges.hidden) return;
    const { ttft_ms: ttft, total_ms: total, prompt_tokens: read, cached_tokens: cached } = usage;
    const share = Math.round((100 * cached) / Math.max(1, read));
    const texts = [`${w.ttft} ${milliseconds(ttft)}`, `${w.total} ${milliseconds(total)}`, `${w.tokens} ${read}`, `${w.cached} ${cached} (${share} %)`];
    this.badges.replaceChildren(...texts.map((text) => make("li", { class: "csp-badge" }, text)));
  }

  showActions(message, isLast, busy) {
    const { chat } = this;
    const { w } = chat;
    const running = message.state === "running";
    const time = this.time(message, { hour: "2-digit", minute: "2-digit" });
    this.userActions.replaceChildren(
      ...(time ? [make("time", { datetime: message.at }, time)] : []),
      chat.button("copy", w.copy, () => chat.copy(message.text)));
    const rate = (name, label, value) => {
      const button = chat.button(name, label, () => chat.rate(message, message.rating === value ? 0 : value));
      button.setAttribute("aria-pressed", String(message.rating === value));
      return button;
    };
    const unanswered = isLast && !busy && message.state !== "done";
    this.botActions.replaceChildren(
      ...(message.reply && !running ? [chat.button("copy", w.copy, () => chat.copy(message.reply))] : []),
      ...(message.decisions.length && !running ? [rate("up", w.up, 1), rate("down", w.down, -1)] : []),
      ...(unanswered ? [chat.button("retry", w.retry, () => chat.say(message.text), w.retry)] : []));
  }

  showWhys(message) {
    const { chat } = this;
    const was = this.whys.hidden;
    this.whys.hidden = message.rating !== -1 || Boolean(message.why);
    this.whys.setAttribute("aria-label", chat.w.why_down);
    const chips = Object.entries(chat.w.whys).map(([why, text]) => chat.chip(text, () => chat.rate(message, -1, why)));
    this.whys.replaceChildren(make("span", {}, chat.w.why_down), ...(this.whys.hidden ? [] : chips));
    if (was && !this.whys.hidden) requestAnimationFrame(() => this.whys.scrollIntoView({ block: "nearest" }));
  }
}
