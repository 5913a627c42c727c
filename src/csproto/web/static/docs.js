// The API's documentation from /openapi.json, without the scripts from elsewhere that ready-made viewers load.
const document_ = await (await fetch("/openapi.json")).json();
const main = document.getElementById("docs");

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
    const body = operation.requestBody?.content?.["application/json"]?.schema;
    if (body) add(main, "pre", `body: ${JSON.stringify(resolve(body), null, 1)}`);
    const list = add(main, "ul", "");
    for (const [status, response] of Object.entries(operation.responses)) add(list, "li", `${status}: ${response.description}`);
  }
}

function resolve(schema) {
  if (!schema.$ref) return schema;
  return schema.$ref.slice(2).split("/").reduce((node, name) => node[name], document_);
}
