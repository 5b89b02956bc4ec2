// The server that the MCP conformance suite asks for, over stdio: every tool, resource and prompt
// its scenarios name. server-everything implements only some of them, so with this one more kinds
// of traffic (progress, logging, sampling and elicitation from server to client) are compared.
import { setTimeout as sleep } from 'node:timers/promises';
import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import * as schemas from '@modelcontextprotocol/sdk/types.js';

const PNG =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==';
const WAV = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=';
const PAUSE_MS = 50;

const text = (value) => ({ type: 'text', text: value });
const image = { type: 'image', data: PNG, mimeType: 'image/png' };
const embedded = (uri, mimeType, value) => ({
  type: 'resource',
  resource: { uri, mimeType, text: value },
});
const stringSchema = (name) => ({
  type: 'object',
  properties: { [name]: { type: 'string' } },
  required: [name],
});
const titled = [
  { const: 'value1', title: 'First Option' },
  { const: 'value2', title: 'Second Option' },
];

const defaultsForm = {
  type: 'object',
  properties: {
    name: { type: 'string', default: 'John Doe' },
    age: { type: 'integer', default: 30 },
    score: { type: 'number', default: 95.5 },
    status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
    verified: { type: 'boolean', default: true },
  },
};
const enumsForm = {
  type: 'object',
  properties: {
    untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
    titledSingle: { type: 'string', oneOf: titled },
    legacyEnum: { type: 'string', enum: ['opt1', 'opt2'], enumNames: ['Option One', 'Option Two'] },
    untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2'] } },
    titledMulti: { type: 'array', items: { anyOf: titled } },
  },
};
const userForm = {
  type: 'object',
  properties: { username: { type: 'string' }, email: { type: 'string' } },
  required: ['username', 'email'],
};

async function elicit(extra, message, requestedSchema) {
  const answer = await extra.sendRequest(
    { method: 'elicitation/create', params: { message, requestedSchema } },
    schemas.ElicitResultSchema,
  );
  return [text(`action=${answer.action}, content=${JSON.stringify(answer.content)}`)];
}

async function log(extra) {
  for (const data of ['started', 'processing data', 'completed']) {
    await extra.sendNotification({
      method: 'notifications/message',
      params: { level: 'info', data: `Tool execution ${data}` },
    });
    await sleep(PAUSE_MS);
  }
  return [text('logged')];
}

async function progress(extra) {
  const progressToken = extra._meta?.progressToken;
  for (const done of [0, 50, 100]) {
    if (progressToken !== undefined) {
      await extra.sendNotification({
        method: 'notifications/progress',
        params: { progressToken, progress: done, total: 100 },
      });
    }
    await sleep(PAUSE_MS);
  }
  return [text('done')];
}

async function sample(extra, { prompt }) {
  const messages = [{ role: 'user', content: text(prompt) }];
  const answer = await extra.sendRequest(
    { method: 'sampling/createMessage', params: { messages, maxTokens: 100 } },
    schemas.CreateMessageResultSchema,
  );
  return [text(`LLM response: ${answer.content.text}`)];
}

// name: [what it does, input schema (default: no arguments)]
const tools = {
  test_simple_text: [() => [text('This is a simple text response for testing.')]],
  test_image_content: [() => [image]],
  test_audio_content: [() => [{ type: 'audio', data: WAV, mimeType: 'audio/wav' }]],
  test_embedded_resource: [
    () => [embedded('test://embedded-resource', 'text/plain', 'This is embedded.')],
  ],
  test_multiple_content_types: [
    () => [
      text('Multiple content types test:'),
      image,
      embedded('test://mixed-content-resource', 'application/json', '{"test":"data"}'),
    ],
  ],
  test_tool_with_logging: [log],
  test_tool_with_progress: [progress],
  test_error_handling: [
    () => {
      throw new Error('This tool intentionally returns an error for testing');
    },
  ],
  test_sampling: [sample, stringSchema('prompt')],
  test_elicitation: [
    (extra, { message }) => elicit(extra, message, userForm),
    stringSchema('message'),
  ],
  test_elicitation_sep1034_defaults: [(extra) => elicit(extra, 'Defaults', defaultsForm)],
  test_elicitation_sep1330_enums: [(extra) => elicit(extra, 'Enums', enumsForm)],
  json_schema_2020_12_tool: [
    () => [text('ok')],
    {
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      type: 'object',
      $defs: { address: { type: 'object', properties: { street: { type: 'string' } } } },
      properties: { name: { type: 'string' }, address: { $ref: '#/$defs/address' } },
      additionalProperties: false,
    },
  ],
};

const resources = {
  'test://static-text': { mimeType: 'text/plain', text: 'The static text resource.' },
  'test://static-binary': { mimeType: 'image/png', blob: PNG },
  'test://watched-resource': { mimeType: 'text/plain', text: 'Watched.' },
};
const template = /^test:\/\/template\/([^/]+)\/data$/;

const prompts = {
  test_simple_prompt: [() => [text('This is a simple prompt for testing.')], []],
  test_prompt_with_arguments: [
    ({ arg1, arg2 }) => [text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)],
    ['arg1', 'arg2'],
  ],
  test_prompt_with_embedded_resource: [
    ({ resourceUri }) => [
      embedded(resourceUri, 'text/plain', 'Embedded resource content for testing.'),
      text('Please process the embedded resource above.'),
    ],
    ['resourceUri'],
  ],
  test_prompt_with_image: [() => [image, text('Please analyze the image above.')], []],
};

const server = new Server(
  { name: 'conformance-server', version: '1.0.0' },
  {
    capabilities: {
      completions: {},
      logging: {},
      prompts: {},
      resources: { subscribe: true },
      tools: {},
    },
  },
);
const on = (schema, handler) => server.setRequestHandler(schema, handler);

on(schemas.SetLevelRequestSchema, () => ({}));
on(schemas.SubscribeRequestSchema, () => ({}));
on(schemas.UnsubscribeRequestSchema, () => ({}));
on(schemas.CompleteRequestSchema, () => ({
  completion: { values: ['paris', 'park'], total: 2, hasMore: false },
}));
on(schemas.ListToolsRequestSchema, () => ({
  tools: Object.entries(tools).map(([name, [, inputSchema]]) => ({
    name,
    description: `The suite's ${name}`,
    inputSchema: inputSchema ?? { type: 'object', properties: {} },
  })),
}));
on(schemas.CallToolRequestSchema, async ({ params }, extra) => {
  const tool = tools[params.name];
  if (tool === undefined) {
    throw new schemas.McpError(schemas.ErrorCode.InvalidParams, `Unknown tool: ${params.name}`);
  }
  try {
    return { content: await tool[0](extra, params.arguments ?? {}) };
  } catch (error) {
    return { isError: true, content: [text(error.message)] };
  }
});
on(schemas.ListResourcesRequestSchema, () => ({
  resources: Object.entries(resources).map(([uri, { mimeType }]) => ({ uri, name: uri, mimeType })),
}));
on(schemas.ReadResourceRequestSchema, ({ params: { uri } }) => {
  const id = template.exec(uri)?.[1];
  const content =
    id === undefined
      ? resources[uri]
      : { mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true }) };
  if (content === undefined) {
    throw new schemas.McpError(schemas.ErrorCode.InvalidParams, `Unknown resource: ${uri}`);
  }
  return { contents: [{ uri, ...content }] };
});
on(schemas.ListPromptsRequestSchema, () => ({
  prompts: Object.entries(prompts).map(([name, [, names]]) => ({
    name,
    description: `The suite's ${name}`,
    arguments: names.map((argument) => ({ name: argument, required: true })),
  })),
}));
on(schemas.GetPromptRequestSchema, ({ params }) => ({
  messages: prompts[params.name][0](params.arguments ?? {}).map((content) => ({
    role: 'user',
    content,
  })),
}));

await server.connect(new StdioServerTransport());
