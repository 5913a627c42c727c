// ---- the menu: earlier conversations, whom the chat is shown to, colours, exports, the demo's reset

class Menu {
  constructor(chat) {
    Object.assign(this, { chat, earlier: [] });
    this.summary = make("summary", { class: "csp-button csp-do-menu" }, icon("menu"));
    this.sheet = make("div", { class: "csp-sheet" });
    const ask = () => this.node.open && chat.host.send({ type: "conversations" });
    this.node = make("details", { class: "csp-menu", ontoggle: ask }, this.summary, this.sheet);
  }

  close(focus = false) { this.node.open = false; if (focus) this.summary.focus(); }

  does(action) { // what an item does, after which the menu is closed
    return () => { this.close(true); action(); };
  }

  draw() {
    const { chat } = this;
    const { w, builder } = chat;
    const key = JSON.stringify([this.earlier, chat.info, chat.language, chat.face, chat.theme, chat.messages.length > 0]);
    if (key === this.key) return;
    this.key = key;
    this.summary.setAttribute("aria-label", w.menu);
    this.summary.title = w.menu;
    const item = (name, action, text) => chat.button(name, text, this.does(action), text);
    const exports = ["json", "markdown"].map((form) => {
      const button = item(form, () => chat.act({ type: "export", form, language: chat.language }, false), w[form]);
      button.disabled = !chat.messages.length;
      return button;
    });
    const face = item("face", () => chat.choose("face", builder ? "customer" : "builder"), w.builder_view);
    face.setAttribute("role", "switch");
    face.setAttribute("aria-checked", String(builder));
    this.sheet.replaceChildren(
      this.conversations(),
      make("div", { class: "csp-group" }, face, ...(builder ? exports : []),
        ...(chat.info?.demo ? [item("reset", () => chat.ask("ask_reset", () => chat.act({ type: "reset" })), w.reset)] : [])),
      make("div", { class: "csp-themes", role: "group", "aria-label": w.theme }, ...Object.keys(w.themes).map((theme) => this.themeButton(theme))));
  }

  themeButton(theme) {
    const { chat } = this;
    const state = { class: `csp-button csp-do-${theme}`, "aria-pressed": String(chat.theme === theme) };
    return make("button", { type: "button", ...state, onclick: () => chat.choose("theme", theme) }, chat.w.themes[theme]);
  }

  conversations() {
    const { chat } = this;
    const { w, language } = chat;
    const others = this.earlier.filter(({ id }) => id !== chat.info?.conversation);
    const time = (at) => new Date(at).toLocaleString(language, { dateStyle: "short", timeStyle: "short" });
    const items = others.map(({ id, title, at }) => make("li", {}, make("button",
      { type: "button", class: "csp-button csp-earlier", onclick: this.does(() => chat.act({ type: "open", conversation: id })) },
      make("span", { class: "csp-earlier-title" }, title), make("time", { datetime: at }, time(at)))));
    return make("div", { class: "csp-group" }, chat.heading(w.earlier),
      items.length ? make("ul", { class: "csp-earlier-list" }, ...items) : make("p", {}, w.no_earlier));
  }
}
