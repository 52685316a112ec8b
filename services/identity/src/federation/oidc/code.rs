//! The authorization code flow (OpenID Connect Core 3.1) with PKCE (RFC 7636), for browsers.

use base::{Error, Result, Timestamp};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use sha2::Digest;

use super::provider::Provider;
use super::{claims, fetch};

/// What one login has for itself.
pub struct Login {
    /// Comes back with the browser.
    pub state: String,
    /// Comes back in the ID token: it is of this login.
    pub nonce: String,
    /// Shows that whoever redeems the code began the login.
    pub verifier: String,
    /// Where the browser comes back to.
    pub redirect_uri: String,
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn form(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}

impl Provider {
    /// Where a browser goes to log in.
    pub async fn login_url(&self, login: &Login) -> Result<String> {
        let document = self.described().await?;
        let endpoint = self.endpoint(&document, "authorization_endpoint")?;
        let challenge = URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(&login.verifier));
        let query = form(&[
            ("response_type", "code"),
            ("client_id", self.settings.client_id.as_str()),
            ("redirect_uri", login.redirect_uri.as_str()),
            ("scope", self.settings.scope.as_str()),
            ("state", login.state.as_str()),
            ("nonce", login.nonce.as_str()),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
        ]);
        Ok(format!("{endpoint}{}{query}", if endpoint.contains('?') { '&' } else { '?' }))
    }

    /// What the provider says of the user who came back with a code: the claims of the ID token, and of the user's document where there is
    /// one. `Unauthenticated` when it is not believed.
    pub async fn redeem(&self, login: &Login, code: &str) -> Result<Map<String, Value>> {
        let document = self.described().await?;
        let mut pairs = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", login.redirect_uri.as_str()),
            ("code_verifier", login.verifier.as_str()),
        ];
        let request =
            self.http.post(self.endpoint(&document, "token_endpoint")?).header("content-type", "application/x-www-form-urlencoded");
        let request = match &self.settings.client_secret {
            Some(secret) => request.basic_auth(encode(&self.settings.client_id), Some(encode(secret))),
            None => {
                pairs.push(("client_id", self.settings.client_id.as_str()));
                request
            }
        };
        let answer = fetch::answer(request.body(form(&pairs))).await?.ok_or_else(|| self.refuse("its code is not redeemed"))?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        let id_token = text("id_token").ok_or_else(|| self.refuse("there is no ID token"))?;
        let mut claims = self.verify(id_token).await?;
        let now = Timestamp::now().micros() / 1_000_000;
        if let Some(problem) = claims::problem_of_id_token(&claims, &self.settings, &login.nonce, now) {
            return Err(self.refuse(problem));
        }
        if let (Some(token), true) = (text("access_token"), document.get("userinfo_endpoint").is_some()) {
            let request = self.http.get(self.endpoint(&document, "userinfo_endpoint")?).bearer_auth(token);
            let Value::Object(more) = fetch::json(request).await? else {
                return Err(Error::unavailable("The identity provider does not describe its user with a JSON object."));
            };
            // It may be about somebody else (OpenID Connect Core 5.3.4).
            if more.get("sub") != claims.get("sub") {
                return Err(self.refuse("it describes another user than the ID token"));
            }
            for (name, value) in more {
                claims.entry(name).or_insert(value);
            }
        }
        Ok(claims)
    }
}
