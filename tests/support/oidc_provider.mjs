// An OpenID provider that logs everybody in: node oidc_provider.mjs '{...}'. Prints a line once it listens.
// The order: port, client_id, client_secret, redirect_uri, logged_out_uri, audience, keys (private JWKs, the first
// one signs).
// Who logs in is the `as` of the interaction's address; see ACCOUNTS for what each may do and which token says so.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const order = JSON.parse(process.argv[2]);
// Found from where npm put it, which is not where this script lies.
const { Provider } = await import(pathToFileURL(createRequire(`${process.cwd()}/`).resolve('oidc-provider')));

const ACCOUNTS = {
  alice: { id: ['operator'], access: ['operator'] },
  kate: { access: ['viewer', 'admin'] },
  nobody: { id: ['accountant'], access: ['accountant'] },
};
const RESOURCE = 'urn:market-data';
const issuer = `http://127.0.0.1:${order.port}`;

const provider = new Provider(issuer, {
  clients: [{
    client_id: order.client_id,
    client_secret: order.client_secret,
    redirect_uris: [order.redirect_uri],
    post_logout_redirect_uris: [order.logged_out_uri],
    response_types: ['code'],
    grant_types: ['authorization_code'],
  }],
  jwks: { keys: order.keys },
  cookies: { keys: ['of this test alone'] },
  claims: { openid: ['sub'], profile: ['roles'] },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  ttl: { AccessToken: 600, AuthorizationCode: 60, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
  features: {
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => RESOURCE,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'openid profile',
        audience: order.audience,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  extraTokenClaims: (_ctx, token) => ({ roles: ACCOUNTS[token.accountId].access }),
  findAccount: (_ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, ...(ACCOUNTS[id].id && { roles: ACCOUNTS[id].id }) }),
  }),
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
});

// What a person would do on two pages: say who they are, and agree.
async function interact(request, response) {
  const { prompt, params } = await provider.interactionDetails(request, response);
  const as = new URL(request.url, issuer).searchParams.get('as') ?? 'alice';
  const grant = new provider.Grant({ accountId: as, clientId: params.client_id });
  grant.addOIDCScope('openid profile');
  grant.addResourceScope(RESOURCE, 'openid profile');
  const result = prompt.name === 'login'
    ? { login: { accountId: as }, consent: { grantId: await grant.save() } }
    : { consent: { grantId: await grant.save() } };
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

const answer = provider.callback();
const server = createServer((request, response) => {
  if (!request.url.startsWith('/interaction/')) {
    answer(request, response);
    return;
  }
  interact(request, response).catch((error) => response.writeHead(500).end(String(error)));
});
server.listen(order.port, '127.0.0.1', () => console.log('listening'));
