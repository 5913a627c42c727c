// The API's documentation from /openapi.json, without the scripts from elsewhere that ready-made viewers load.
const document_ = await (await fetch("/openapi.json")).json();
const main = document.getElementById("docs");
const jar = "-b cookies -c cookies";

function add(parent, tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    add(main, "h2", `${method.toUpperCase()} ${path}`);
    add(main, "p", operation.description || operation.summary || "");
    const sent = operation.requestBody?.content["application/json"];
    add(main, "pre", curl(path, method, sent?.example));
    for (const [type, answer] of Object.entries(operation.responses[200].content)) {
      if (answer.example === undefined) continue;
      add(main, "h3", type);
      add(main, "pre", typeof answer.example === "string" ? answer.example : JSON.stringify(answer.example, null, 1));
    }
    if (sent?.schema) fields(resolve(sent.schema));
    const list = add(main, "ul", "");
    for (const [status, response] of Object.entries(operation.responses)) add(list, "li", `${status}: ${response.description}`);
  }
}

function curl(path, method, body) {
  const address = location.origin + path;
  if (method === "get") return `curl ${jar} ${address}`;
  const quoted = JSON.stringify(body ?? {}).replaceAll("'", "'\\''");
  return `curl ${jar} ${address} \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
}

function fields(schema) {
  const list = add(main, "ul", "");
  for (const [name, field] of Object.entries(schema.properties ?? {})) add(list, "li", `${name}: ${field.description ?? field.type ?? ""}`);
}

function resolve(schema) {
  if (!schema.$ref) return schema;
  return schema.$ref.slice(2).split("/").reduce((node, name) => node[name], document_);
}
