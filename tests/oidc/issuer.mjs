// An issuer of access tokens: the package oidc-provider, which is certified for OpenID Connect.
//
//     node issuer.mjs PORT RESOURCE
//
// Its clients get JWT access tokens (RFC 9068) by their credentials; the end of a client's name says how they are signed.
// Prints one line when it listens.

import { createRequire } from 'node:module';
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

// The package stands in the folder of tools, where this process is started, not beside this file.
const require = createRequire(`${process.cwd()}/`);
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);

const [port, resource] = [Number(process.argv[2]), process.argv[3]];
const jwk = (pair, kid, alg) => ({ ...pair.privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' });
const keys = [
  jwk(generateKeyPairSync('ec', { namedCurve: 'P-256' }), 'p256', 'ES256'),
  jwk(generateKeyPairSync('rsa', { modulusLength: 2048 }), 'rsa', 'RS256'),
  jwk(generateKeyPairSync('ed25519'), 'ed', 'EdDSA'),
  jwk(generateKeyPairSync('ec', { namedCurve: 'P-384' }), 'p384', 'ES384'),
];
const SCOPES = 'dag:read dag:write mcp:call admin';
const client = (id, scope) => ({
  client_id: id,
  client_secret: 'no-secret-in-a-test-and-long-enough-for-one',
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  token_endpoint_auth_method: 'client_secret_basic',
  scope,
});

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: keys.flatMap(({ alg }) => [client(`reader-${alg}`, 'dag:read'), client(`writer-${alg}`, SCOPES)]),
  jwks: { keys },
  scopes: SCOPES.split(' '),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      getResourceServerInfo: (context, audience, { clientId }) => ({
        scope: SCOPES,
        audience,
        accessTokenFormat: 'jwt',
        accessTokenTTL: 120,
        jwt: { sign: { alg: clientId.split('-')[1] } },
      }),
    },
  },
});
provider.listen(port, '127.0.0.1', () => console.log('listening'));
