// SPDX-License-Identifier: Apache-2.0

// Usage: node registermany.js mqtt|mqtt-ws|http HOST:PORT SCOPE GROUPKEY PREFIX COUNT
// Registers PREFIX-1 to PREFIX-COUNT with Microsoft's client, all at once in this
// process, and prints how many were assigned and the first error, as one JSON line.
'use strict';

const crypto = require('crypto');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { redirect } = require('./redirect.js');

const [kind, address, scope, groupKey, prefix, count] = process.argv.slice(2);
const [name, port] = address.split(':');
redirect(Number(port));

// The packages of the other transports are not loaded: their time is not this one's.
function newTransport() {
  if (kind === 'http') {
    const { Http } = require('azure-iot-provisioning-device-http');
    return new Http();
  }
  const { Mqtt, MqttWs } = require('azure-iot-provisioning-device-mqtt');
  return kind === 'mqtt' ? new Mqtt() : new MqttWs();
}

function register(id) {
  const key = crypto.createHmac('sha256', Buffer.from(groupKey, 'base64')).update(id).digest('base64');
  const security = new SymmetricKeySecurityClient(id, key);
  const host = kind === 'mqtt' ? address : name;
  const client = ProvisioningDeviceClient.create(host, scope, newTransport(), security);
  return new Promise((resolve, reject) => client.register((err, result) => (err ? reject(err) : resolve(result))));
}

const running = Array.from({ length: Number(count) }, (_, i) => register(`${prefix}-${i + 1}`));
Promise.allSettled(running).then((results) => {
  const assigned = results.filter((r) => r.status === 'fulfilled' && r.value.status === 'assigned').length;
  const failure = results.find((r) => r.status === 'rejected');
  console.log(JSON.stringify({ assigned, error: failure && `${failure.reason.name}: ${failure.reason.message}` }));
  process.exit(assigned === running.length ? 0 : 1);
});
