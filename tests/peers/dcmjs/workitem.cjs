// A manager and performer of one workitem in JavaScript: create, claim, report, complete, read. Prints what it was answered as JSON.
// node workitem.cjs MODULES PORT CALLED-AE UID LOCK
const { createRequire } = require('node:module');
const { join } = require('node:path');

const [modules, port, called, uid, lock] = process.argv.slice(2);
const dcmjsDimse = createRequire(join(modules, 'x.js'))('dcmjs-dimse');
const { Client, Dataset } = dcmjsDimse;
const { NActionRequest, NCreateRequest, NGetRequest, NSetRequest } = dcmjsDimse.requests;
dcmjsDimse.log.level = 'error';

const [push, watch, pull] = ['1', '2', '3'].map(number => `1.2.840.10008.5.1.4.34.6.${number}`);
const seen = { statuses: {}, errors: [] };

function ask(name, request, elements) {
  return new Promise(resolve => {
    if (elements) request.setDataset(new Dataset(elements));
    request.on('response', response => {
      seen.statuses[name] = response.getStatus();
      if (name === 'get') seen.shown = response.getDataset().getElements();
    });
    const client = new Client();
    client.addRequest(request);
    client.on('networkError', error => { seen.errors.push(String(error)); resolve(); });
    client.on('associationRejected', () => seen.errors.push('rejected'));
    client.on('closed', resolve);
    client.send('127.0.0.1', Number(port), 'JSCLIENT', called);
  });
}

const code = value => [{ CodeValue: value, CodingSchemeDesignator: 'L', CodeMeaning: value.toLowerCase() }];
const state = () => new NActionRequest(push, uid, 1, pull);

(async () => {
  await ask('create', new NCreateRequest(push, uid, push), {
    ScheduledProcedureStepStartDateTime: '20240101120000', InputReadinessState: 'READY', ProcedureStepState: 'SCHEDULED',
    ScheduledProcedureStepPriority: 'LOW', WorklistLabel: 'scripts', ProcedureStepLabel: 'measure',
    PatientName: 'Javascript^Client', ScheduledWorkitemCodeSequence: code('MEASURE'),
  });
  await ask('again', new NCreateRequest(push, uid, push), { ProcedureStepState: 'SCHEDULED' });
  await ask('watch', new NActionRequest(push, uid, 3, watch), { ReceivingAE: 'JSCLIENT', DeletionLock: 'FALSE' });
  await ask('claim', state(), { ProcedureStepState: 'IN PROGRESS', TransactionUID: lock });
  await ask('early', state(), { ProcedureStepState: 'COMPLETED', TransactionUID: lock });
  await ask('wrong', state(), { ProcedureStepState: 'COMPLETED', TransactionUID: '2.25.5' });
  await ask('set', new NSetRequest(push, uid, pull), {
    TransactionUID: lock,
    UnifiedProcedureStepPerformedProcedureSequence: [{
      PerformedStationNameCodeSequence: code('S'), PerformedProcedureStepStartDateTime: '20240101',
      PerformedProcedureStepEndDateTime: '20240101', PerformedWorkitemCodeSequence: code('MEASURE'), OutputInformationSequence: [],
    }],
  });
  await ask('complete', state(), { ProcedureStepState: 'COMPLETED', TransactionUID: lock });
  await ask('get', new NGetRequest(push, uid, ['ProcedureStepState', 'PatientName', 'WorklistLabel'], pull));
  console.log(JSON.stringify(seen));
})();
