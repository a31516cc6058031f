// As much of Markdown as a model card needs, as elements: what it does not know stays text, and nothing in it is read as markup.

import { el } from "/web/dom.js";
import { code, table as tabled } from "/web/parts.js";

const INLINE = /(`[^`]+`|\*\*[^*]+\*\*|!?\[[^\]]*\]\([^)\s]+\))/;

/** The elements of a Markdown text; `address` says where a linked file is, or null where it may not be linked. */
export function markdown(text, address = web) {
  const body = text.replace(/^---\n[\s\S]*?\n---\n/, ""); // the metadata of a Hugging Face card
  return blocks(body.split("\n")).map((lines) => block(lines, address));
}

/** Only the web: a card is data, and may not run anything. */
const web = (link) => (/^https?:\/\//.test(link) ? link : null);

/** Lines that belong together: until an empty one, and a heading or a fence alone. */
function blocks(lines) {
  const found = [];
  let [open, fenced] = [[], false];
  const close = () => {
    if (open.length > 0) found.push(open);
    open = [];
  };
  for (const line of lines) {
    if (line.startsWith("```")) {
      if (!fenced) close();
      open.push(line);
      if (fenced) close();
      fenced = !fenced;
    } else if (fenced) open.push(line);
    else if (line.trim() === "") close();
    else if (/^#{1,6} /.test(line)) {
      close();
      found.push([line]);
    } else open.push(line);
  }
  close();
  return found;
}

function block(lines, address) {
  const heading = /^(#{1,6}) (.*)/.exec(lines[0]);
  const inline = (text) => inlined(text, address);
  if (heading) return el(`h${Math.min(6, heading[1].length + 1)}`, {}, inline(heading[2])); // the page has the first
  if (lines[0].startsWith("```")) return code(lines.slice(1, lines.at(-1).startsWith("```") ? -1 : undefined).join("\n"));
  if (lines[0].startsWith("|") && /^\|[\s:|-]+\|?$/.test(lines[1] ?? "")) return table(lines, inline);
  if (/^[-*] /.test(lines[0])) return el("ul", {}, items(lines, /^[-*] /).map((text) => el("li", {}, inline(text))));
  if (/^\d+\. /.test(lines[0])) return el("ol", {}, items(lines, /^\d+\. /).map((text) => el("li", {}, inline(text))));
  return el("p", {}, inline(lines.join(" ")));
}

function items(lines, mark) {
  const found = [];
  for (const line of lines) {
    if (mark.test(line)) found.push(line.replace(mark, ""));
    else found.push(`${found.pop() ?? ""} ${line.trim()}`);
  }
  return found;
}

function table([head, , ...rows], inline) {
  const cells = (line) => line.replace(/^\||\|\s*$/g, "").split("|").map((text) => text.trim());
  return tabled(cells(head).join(", "), cells(head).map(inline), rows.map((row) => cells(row).map(inline)));
}

function inlined(text, address) {
  return text.split(INLINE).map((part) => {
    if (/^`.+`$/.test(part)) return el("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return el("strong", {}, part.slice(2, -2));
    const link = /^(!?)\[([^\]]*)\]\(([^)]+)\)$/.exec(part);
    return link ? linked(link, address) : part;
  });
}

function linked([, picture, text, link], address) {
  const href = address(link);
  if (href === null) return text;
  const here = href.startsWith("/"); // a picture from elsewhere would tell that host who reads the card: it becomes a link
  return picture && here ? el("img", { src: href, alt: text, loading: "lazy" }) : el("a", { href, rel: "noreferrer" }, text);
}
