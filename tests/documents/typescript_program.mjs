// Writes a TypeScript program that makes every planned call through openapi-fetch with the types that openapi-typescript
// generated: each call a literal, so that the compiler checks paths, parameters and bodies.
//
// usage: typescript_program.mjs URL PLAN.json > program.ts
import { readFileSync } from "node:fs";

const [url, planPath] = process.argv.slice(2);
const plan = JSON.parse(readFileSync(planPath, "utf8"));

const call = ({ id, method, path, token, parameters, content_type, body, status, answers_json }) => {
    const options = { headers: { Authorization: `Bearer ${token}` } };
    if (Object.keys(parameters).length > 0) options.params = { path: parameters };
    if (body !== null) options.body = body;
    if (content_type !== null) options.headers["Content-Type"] = content_type;
    let literal = JSON.stringify(options);
    if (!answers_json) literal = literal.replace(/}$/, ', parseAs: "text"}');
    return `check(${JSON.stringify(id)}, ${status}, await client.${method.toUpperCase()}(${JSON.stringify(path)}, ${literal}));`;
};

console.log(`import createClient from "openapi-fetch";
import type { paths } from "./schema";

const client = createClient<paths>({ baseUrl: ${JSON.stringify(url)} });
let made = 0;

function check(id: string, status: number, { response, data, error }: { response: Response; data?: unknown; error?: unknown }) {
    if (response.status !== status || (data === undefined && error === undefined)) {
        throw new Error(\`\${id}: \${response.status} \${JSON.stringify(data ?? error)}\`);
    }
    made += 1;
}

${plan.map(call).join("\n")}
console.log(\`openapi-typescript: \${made} operations\`);`);
