// One avatar a line: {"style", "options"} on standard input, its SVG as JSON on standard output.
import { createInterface } from "node:readline";
import { createAvatar } from "@dicebear/core";

const styles = {};
for await (const line of createInterface({ input: process.stdin })) {
  const { style, options } = JSON.parse(line);
  styles[style] ??= await import(`@dicebear/${style}`);
  process.stdout.write(JSON.stringify(createAvatar(styles[style], options).toString()) + "\n");
}
