// A DIMSE client in JavaScript: echo, store, find, get. Prints what it was answered as JSON.
// node drive.cjs MODULES PORT CALLED-AE STUDY FILE...
const { createRequire } = require('node:module');
const { join } = require('node:path');

const [modules, port, called, study, ...files] = process.argv.slice(2);
const dcmjsDimse = createRequire(join(modules, 'x.js'))('dcmjs-dimse');
const { Client } = dcmjsDimse;
const { CEchoRequest, CFindRequest, CGetRequest, CStoreRequest } = dcmjsDimse.requests;
const { CStoreResponse } = dcmjsDimse.responses;
const { Status } = dcmjsDimse.constants;
dcmjsDimse.log.level = 'error';

const seen = { echo: [], store: [], found: [], get: [], received: [], errors: [] };

function ask(requests, handlers = {}) {
  return new Promise(resolve => {
    const client = new Client();
    requests.forEach(request => client.addRequest(request));
    client.on('networkError', error => { seen.errors.push(String(error)); resolve(); });
    client.on('associationRejected', () => seen.errors.push('rejected'));
    client.on('closed', resolve);
    Object.entries(handlers).forEach(([name, handler]) => client.on(name, handler));
    client.send('127.0.0.1', Number(port), 'JSCLIENT', called);
  });
}

function answered(request, list) {
  request.on('response', response => list.push(response.getStatus()));
  return request;
}

(async () => {
  await ask([answered(new CEchoRequest(), seen.echo)]);
  await ask(files.map(file => answered(new CStoreRequest(file), seen.store)));

  const find = CFindRequest.createStudyFindRequest({ StudyInstanceUID: study, PatientName: '*', ModalitiesInStudy: '' });
  find.on('response', response => {
    if (response.getStatus() === Status.Pending && response.hasDataset()) seen.found.push(response.getDataset().getElements());
    else seen.findStatus = response.getStatus();
  });
  await ask([find]);

  const get = CGetRequest.createStudyGetRequest(study);
  get.on('response', response => seen.get.push([response.getStatus(), response.getCompleted(), response.getFailures()]));
  await ask([get], {
    cStoreRequest: (request, callback) => {
      seen.received.push(request.getDataset().getElement('SOPInstanceUID'));
      const response = CStoreResponse.fromRequest(request);
      response.setStatus(Status.Success);
      callback(response);
    },
  });
  console.log(JSON.stringify(seen));
})();
