// OpenAI's SDK for JavaScript: node openai_js.mjs URL MODEL
import assert from "node:assert";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Is Rome large or small?" }];
const limit = { model, max_tokens: 12 };
const City = z.object({ name: z.enum(["Rome", "Oslo"]), large: z.boolean() });
const parameters = {
  type: "object",
  properties: { city: { enum: ["Rome", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};
const tool = { type: "function", function: { name: "weather", strict: true, parameters } };

const whole = await client.chat.completions.create({ messages, ...limit });
assert(whole.usage.completion_tokens > 0);

let text = "";
const chunks = await client.chat.completions.create({ messages, stream: true, ...limit });
for await (const chunk of chunks) text += chunk.choices[0]?.delta.content ?? "";
assert(text.length > 0);

const helper = client.chat.completions.stream({ messages, ...limit });
assert((await helper.finalChatCompletion()).choices.length === 1);

const completion = await client.completions.create({ prompt: "Rome is", ...limit });
assert(completion.choices[0].text.length > 0);

const format = zodResponseFormat(City, "city");
const parsed = await client.chat.completions.parse({
  messages, model, max_tokens: 200, response_format: format,
});
assert(City.safeParse(parsed.choices[0].message.parsed).success);

const called = client.chat.completions.stream({
  messages, model, max_tokens: 200, tools: [tool], tool_choice: "required",
});
const [call] = (await called.finalChatCompletion()).choices[0].message.tool_calls;
assert(["Rome", "Oslo"].includes(JSON.parse(call.function.arguments).city));

const answer = await client.responses.create({ model, input: "Hello", max_output_tokens: 12 });
assert(answer.output_text.length > 0);
const events = client.responses.stream({ model, input: "Hello", max_output_tokens: 12 });
assert((await events.finalResponse()).output_text.length > 0);

console.log("chat, completions, responses, streaming helpers, tools, structured outputs");
