// A provider of OpenID Connect (npm oidc-provider, certified by the OpenID Foundation) for one test:
// `node openid_provider.mjs PORT DIRECTORY_OF_MODULES [REDIRECT_URI ...]`.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [port, modules, ...redirects] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { default: Provider, errors } = await import(pathToFileURL(require.resolve('oidc-provider')));
const issuer = `http://127.0.0.1:${port}`;
const redirect = 'http://127.0.0.1:8080/auth';
const resource = 'https://cloud.example';

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'sturnus', client_secret: 'a secret', redirect_uris: [redirect, ...redirects],
      grant_types: ['authorization_code', 'client_credentials', 'password', 'refresh_token', 'urn:ietf:params:oauth:grant-type:token-exchange'],
      response_types: ['code'],
    },
  ],
  scopes: ['openid', 'profile', 'email', 'groups', 'offline_access'],
  claims: { openid: ['sub'], profile: ['name'], email: ['email'], groups: ['groups'] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: id, email: `${id}@example.org`, groups: ['staff'] }) }),
  pkce: { required: () => false },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      // `scope=... jwt` asks for a token that can be verified; else it is opaque.
      defaultResource: (ctx) => ((ctx.oidc.params?.scope ?? '').split(' ').includes('jwt') ? resource : undefined),
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: 'openid profile email groups jwt', audience: 'sturnus', accessTokenFormat: 'jwt', accessTokenTTL: 600 }),
    },
  },
  extraTokenClaims: (_, token) => ({ ...(token.accountId ? {} : { sub: token.clientId }), email: 'x@example.org', groups: ['staff'] }),
});

// Grants that the library leaves to whoever uses it: the password (one user, one password) and token exchange (RFC 8693).
async function issue(ctx, accountId) {
  const { client, params } = ctx.oidc;
  const wanted = new Set((params.scope ?? 'openid').split(' '));
  const grant = new provider.Grant({ accountId, clientId: client.clientId });
  grant.addOIDCScope([...wanted].join(' '));
  const grantId = await grant.save();
  const { AccessToken } = provider;
  const token = new AccessToken({ accountId, client, grantId, gty: 'password', scope: [...wanted].join(' '), claims: {} });
  if (wanted.has('jwt')) {
    token.resourceServer = new provider.ResourceServer(resource, { scope: 'openid profile email groups jwt', audience: 'sturnus', accessTokenFormat: 'jwt', accessTokenTTL: 600 });
  }
  ctx.body = { access_token: await token.save(), token_type: 'Bearer', expires_in: 600, scope: token.scope, issued_token_type: 'urn:ietf:params:oauth:token-type:access_token' };
}
provider.registerGrantType('password', async (ctx) => {
  const { username, password } = ctx.oidc.params;
  if (password !== `the password of ${username}`) throw new errors.InvalidGrant('wrong');
  await issue(ctx, username);
}, ['username', 'password', 'scope'], []);
provider.registerGrantType('urn:ietf:params:oauth:grant-type:token-exchange', async (ctx) => {
  const subject = await provider.AccessToken.find(ctx.oidc.params.subject_token);
  if (!subject?.isValid) throw new errors.InvalidGrant('no such token');
  await issue(ctx, subject.accountId);
}, ['subject_token', 'subject_token_type', 'requested_token_type', 'audience', 'scope', 'resource'], ['audience', 'scope', 'resource']);

// Whoever comes is Carol, and agrees.
provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) return next();
  const details = await provider.interactionDetails(ctx.req, ctx.res);
  if (details.prompt.name === 'login') return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: 'carol' } });
  const grant = new provider.Grant({ accountId: details.session.accountId, clientId: details.params.client_id });
  grant.addOIDCScope(details.params.scope);
  return provider.interactionFinished(ctx.req, ctx.res, { consent: { grantId: await grant.save() } });
});

provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
