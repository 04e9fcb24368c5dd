// parse-prometheus-text-format over the page on stdin; what it found, as JSON.
const path = require("path").join(process.argv[2], "parse-prometheus-text-format");
const parse = require(path).default || require(path);
let page = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (piece) => { page += piece; });
process.stdin.on("end", () => console.log(JSON.stringify(parse(page))));
