// The agent of agent.py in Node: its child_process uses Unix socket pairs for standard streams.
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const script = JSON.parse(readFileSync(process.argv[2]));
const server = spawn(script.server[0], script.server.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
const received = [];
let buffer = "";
let wake = () => {};
server.stdout.setEncoding("utf8");
server.stdout.on("data", (chunk) => {
  const lines = (buffer + chunk).split("\n");
  buffer = lines.pop();
  received.push(...lines);
  wake();
});
let wanted = 0;
for (const step of script.steps) {
  wanted += step.answers ?? 0;
  server.stdin.write(step.send);
  while (received.length < wanted) await new Promise((resolve) => (wake = resolve));
}
const transcript = { client: process.pid, server: server.pid, received };
writeFileSync(process.argv[3], JSON.stringify(transcript));
server.stdin.end();
