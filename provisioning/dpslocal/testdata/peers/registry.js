// SPDX-License-Identifier: Apache-2.0

// Usage: node registry.js HOST:PORT CONNECTION_STRING DEVICE
// Reads a twin with Microsoft's client for operators of a hub, changes tags and
// desired properties, and tries it with an old etag and for no device.
'use strict';

const { Registry } = require('azure-iothub');
const { agentTo, say } = require('./local');

const [address, connectionString, id] = process.argv.slice(2);
const registry = Registry.fromConnectionString(connectionString);
registry._restApiClient.setOptions({ http: { agent: agentTo(address) } });

const failure = async (promise) => {
  try {
    await promise;
    return 'none';
  } catch (err) {
    return err.name;
  }
};

async function main() {
  const { responseBody: twin } = await registry.getTwin(id);
  say({ tags: twin.tags, desired: twin.properties.desired, connectionState: twin.connectionState });
  const old = twin.etag;
  await twin.update({ tags: { floor: 4 }, properties: { desired: { darknessSetting: 'dark' } } });
  say({ tags: twin.tags, desired: twin.properties.desired, changed: twin.etag !== old });
  say({ old: await failure(registry.updateTwin(id, { tags: { floor: 5 } }, old)) });
  const { responseBody: any } = await registry.updateTwin(id, { tags: { floor: null } }, '*');
  say({ tags: any.tags });
  say({ absent: await failure(registry.getTwin('absent')) });
}

main().then(() => process.exit(0), (err) => {
  say({ error: err.name, message: err.message });
  process.exit(1);
});
