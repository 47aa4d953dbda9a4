// The Vercel AI SDK, with both of its providers for such servers: node ai_sdk.mjs URL MODEL
import assert from "node:assert";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, streamText, tool } from "ai";
import { z } from "zod";

const [url, name] = process.argv.slice(2);
const settings = { name: "wisp", baseURL: `${url}/v1`, apiKey: "none" };
const compatible = createOpenAICompatible({ ...settings, supportsStructuredOutputs: true });
const openai = createOpenAI(settings);
const City = z.object({ name: z.enum(["Rome", "Oslo"]), large: z.boolean() });
const prompt = "Is Rome large or small?";
const weather = tool({
  description: "The weather of a city",
  inputSchema: z.object({ city: z.enum(["Rome", "Oslo"]) }),
  execute: async ({ city }) => `It is sunny in ${city}.`,
});

// The second speaks the Responses API, and keeps its answers unless it is told not to.
const stateless = { providerOptions: { openai: { store: false } } };
for (const model of [compatible(name), openai.chat(name), openai.responses(name)]) {
  const shared = { model, prompt, maxRetries: 0, ...stateless };
  const whole = await generateText({ ...shared, maxOutputTokens: 12 });
  assert(whole.text.length > 0);

  const stream = streamText({ ...shared, maxOutputTokens: 12 });
  let text = "";
  for await (const part of stream.textStream) text += part;
  assert(text.length > 0);

  const object = await generateText({
    ...shared, maxOutputTokens: 200, output: Output.object({ schema: City }),
  });
  assert(City.safeParse(object.output).success);

  const required = { ...shared, maxOutputTokens: 200, tools: { weather }, toolChoice: "required" };
  const called = await generateText(required);
  assert(called.toolResults.length > 0);
  const streamed = streamText(required);
  assert((await streamed.toolResults).length > 0);
}
console.log("generateText, streamText, objects, tools; providers openai and openai-compatible");
