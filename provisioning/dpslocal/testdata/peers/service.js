// SPDX-License-Identifier: Apache-2.0

// Usage: node service.js HOST:PORT CONNECTION_STRING GROUP REGISTERED
// Goes through the whole surface of Microsoft's service client and prints what
// each call brought. GROUP exists, and its device REGISTERED is registered.
'use strict';

const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { agentTo, say } = require('./local');

const [address, connectionString, group, registered] = process.argv.slice(2);
const client = ProvisioningServiceClient.fromConnectionString(connectionString);
client._restApiClient.setOptions({ http: { agent: agentTo(address) } });

const result = async (promise) => {
  const { responseBody } = await promise;
  return responseBody;
};
const failure = async (promise) => {
  try {
    await promise;
    return 'none';
  } catch (err) {
    return err.name;
  }
};
const pages = async (query) => {
  const all = [];
  while (query.hasMoreResults) {
    const { result: page } = await new Promise((resolve, reject) => {
      query.next((err, list) => (err ? reject(err) : resolve({ result: list })));
    });
    all.push(page.map((e) => e.registrationId || e.enrollmentGroupId));
  }
  return all;
};
// The promise form of this call never settles, which is the package's own doing.
const bulk = (mode, enrollments) => new Promise((resolve, reject) => {
  client.runBulkEnrollmentOperation({ mode, enrollments }, (err, done) => (err ? reject(err) : resolve(done)));
});

async function groups() {
  const made = await result(client.createOrUpdateEnrollmentGroup({
    enrollmentGroupId: 'node-group', attestation: { type: 'symmetricKey' }, provisioningStatus: 'enabled',
  }));
  say({ made: made.enrollmentGroupId, keyLength: Buffer.from(made.attestation.symmetricKey.primaryKey, 'base64').length });
  const read = await result(client.getEnrollmentGroup('node-group'));
  say({ read: read.attestation, sameETag: read.etag === made.etag });
  const keys = await result(client.getEnrollmentGroupAttestationMechanism('node-group'));
  say({ keys: keys.type, same: keys.symmetricKey.primaryKey === made.attestation.symmetricKey.primaryKey });
  read.provisioningStatus = 'disabled';
  const updated = await result(client.createOrUpdateEnrollmentGroup(read));
  say({ updated: updated.provisioningStatus, keysKept: updated.attestation.symmetricKey.primaryKey === keys.symmetricKey.primaryKey });
  say({ oldETag: await failure(client.createOrUpdateEnrollmentGroup(read)) });
  say({ groups: await pages(client.createEnrollmentGroupQuery({ query: 'SELECT * FROM enrollmentGroups' }, 1)) });
  say({ oldDelete: await failure(client.deleteEnrollmentGroup('node-group', read.etag)) });
  await client.deleteEnrollmentGroup(updated);
  say({ gone: await failure(client.getEnrollmentGroup('node-group')) });
}

async function individuals() {
  const made = await result(client.createOrUpdateIndividualEnrollment({
    registrationId: 'Node-01', deviceId: 'kettle', attestation: { type: 'symmetricKey' },
    initialTwin: { tags: { floor: 4 }, properties: { desired: { state: 'ready' } } }, optionalDeviceInformation: { made: 1999 },
  }));
  say({ made: made.registrationId, twin: made.initialTwin, information: made.optionalDeviceInformation });
  say({ again: await failure(client.createOrUpdateIndividualEnrollment({ registrationId: 'Node-01', attestation: { type: 'symmetricKey' } })) });
  const read = await result(client.getIndividualEnrollment('node-01'));
  const keys = await result(client.getIndividualEnrollmentAttestationMechanism('Node-01'));
  say({ read: read.attestation, deviceId: read.deviceId, keys: Object.keys(keys.symmetricKey) });
  const one = (id) => ({ registrationId: id, attestation: { type: 'symmetricKey' } });
  say({ bulk: await bulk('create', [one('a'), one('b'), one('Node-01')]) });
  say({ enrollments: await pages(client.createIndividualEnrollmentQuery({ query: 'SELECT * FROM enrollments' }, 2)) });
  say({ bulk: await bulk('updateIfMatchEtag', [{ ...one('Node-01'), etag: made.etag }]) });
  say({ bulk: await bulk('delete', [one('a'), one('b')]) });
  await client.deleteIndividualEnrollment('Node-01');
  say({ gone: await failure(client.deleteIndividualEnrollment('Node-01')) });
}

async function registrations() {
  say({ registrations: await pages(client.createEnrollmentGroupDeviceRegistrationStateQuery({ query: '*' }, group, 2)) });
  const state = await result(client.getDeviceRegistrationState(registered));
  say({ status: state.status, hub: state.assignedHub });
  await client.deleteDeviceRegistrationState(state);
  say({ gone: await failure(client.getDeviceRegistrationState(registered)) });
}

groups().then(individuals).then(registrations).then(() => process.exit(0), (err) => {
  say({ error: err.name, message: err.message });
  process.exit(1);
});
