// Checks an AsyncAPI document with AsyncAPI's own parser: prints what that objects to, and exits with 1 if there is anything.
//
// usage: asyncapi.mjs ASYNCAPI.json
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
// hints, of which there are some about style
const WEIGHT = ["error", "warning"];
const objections = diagnostics.filter(({ severity }) => severity < WEIGHT.length);
for (const { severity, path, message } of objections) {
    console.log(`${WEIGHT[severity]} at ${path.join("/")}: ${message}`);
}
if (!document || objections.length > 0) process.exit(1);
console.log(`@asyncapi/parser: ${document.channels().length} channels, ${document.operations().length} operations, ${document.allMessages().length} frames`);
