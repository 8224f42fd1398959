//! The builder of requests, which turns what somebody asks into tokens and parameters: one for
//! every front, be it a command line, an HTTP server or another program.
//!
//! A [`RequestBuilder`] holds what is asked (messages, a raw prompt, or tokens), how messages
//! become a prompt, and how the answer is made. [`RequestBuilder::build`] checks all of it for one
//! model and gives a [`Question`]; [`RequestBuilder::check`] checks what can be known without a
//! model. A wrong parameter is a [`RequestError`] that names it as interfaces write it
//! (`logit_bias`, `stop`, `top_p`), and says what was expected.

use std::time::{SystemTime, UNIX_EPOCH};

use lockstep_exact::limits::{STOP_BYTES, STOP_STRINGS};
use lockstep_exact::manifest::Manifest;
use lockstep_exact::sample::{Bias, ParameterError, Sampling, Stops};
use lockstep_import::template::{Date, DateError, Message};
use lockstep_import::tokenizer::{ControlText, EncodeError, Tokenizer};

use crate::format::{ChatFormat, FormatError};

/// A question for one model: the prompt's tokens and the parameters, checked for that model.
#[derive(Clone, Debug)]
pub struct Question {
    /// The prompt's tokens, template included.
    pub prompt: Vec<u32>,
    /// The parameters by which tokens are chosen.
    pub sampling: Sampling,
    /// The rules by which the answer ends.
    pub stops: Stops,
}

/// The input of a request: messages, a text or tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The messages of a chat, oldest first; the model's chat template writes the prompt.
    Messages(Vec<Message>),
    /// A prompt that is taken as it is, without a template. Text that spells a control token
    /// becomes that token.
    Raw(String),
    /// The tokens of a prompt, made by the caller.
    Tokens(Vec<u32>),
}

/// The parameters of an answer: how tokens are chosen, and when it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// The parameters by which tokens are chosen. The biases may come in any order.
    pub sampling: Sampling,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// The most tokens of an answer; [`u32::MAX`] for as many as the context has room for.
    pub max_tokens: u32,
    /// Whether the answer goes on behind the model's end tokens.
    pub ignore_end: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        let (sampling, stop) = (Sampling::default(), Vec::new());
        Self { sampling, stop, max_tokens: u32::MAX, ignore_end: false }
    }
}

impl Parameters {
    /// Returns the sampling parameters with the biases by increasing ids, checked for a vocabulary
    /// of any size.
    ///
    /// # Errors
    /// [`RequestError`] names the parameter.
    pub fn unbound_sampling(&self) -> Result<Sampling, RequestError> {
        let mut sampling = self.sampling.clone();
        sampling.logit_bias.sort_by_key(|entry| entry.token);
        let mut pairs = sampling.logit_bias.windows(2);
        let twice = pairs.find(|pair| matches!(pair, [a, b] if a.token == b.token));
        if let Some([Bias { token, .. }, ..]) = twice {
            return Err(RequestError::BiasTwice { token: *token });
        }
        sampling.check(u32::MAX)?;
        Ok(sampling)
    }

    /// Returns the sampling parameters, checked for a model.
    ///
    /// # Errors
    /// [`RequestError`] names the parameter.
    pub fn sampling(&self, manifest: &Manifest) -> Result<Sampling, RequestError> {
        let sampling = self.unbound_sampling()?;
        let vocabulary = manifest.vocabulary;
        let unknown = sampling.logit_bias.iter().find(|entry| entry.token >= vocabulary);
        if let Some(Bias { token, .. }) = unknown {
            return Err(RequestError::BiasToken { token: *token, vocabulary });
        }
        sampling.check(vocabulary)?;
        Ok(sampling)
    }

    /// Returns the rules by which an answer ends, checked.
    ///
    /// # Errors
    /// [`RequestError::Stop`], [`RequestError::Stops`].
    pub fn stops(&self) -> Result<Stops, RequestError> {
        let strings: Vec<Vec<u8>> =
            self.stop.iter().map(|text| text.clone().into_bytes()).collect();
        if strings.len() > STOP_STRINGS {
            return Err(RequestError::Stops);
        }
        if strings.iter().any(|text| text.is_empty() || text.len() > STOP_BYTES) {
            return Err(RequestError::Stop);
        }
        Ok(Stops { max_tokens: self.max_tokens, ignore_end: self.ignore_end, strings })
    }

    /// Returns the question of a prompt's tokens for one model, all of it checked.
    ///
    /// # Errors
    /// [`RequestError`] says which parameter is wrong, or what is wrong with the prompt.
    pub fn question(
        &self,
        prompt: Vec<u32>,
        manifest: &Manifest,
    ) -> Result<Question, RequestError> {
        if self.max_tokens == 0 {
            return Err(RequestError::MaxTokens);
        }
        let context = manifest.context as usize;
        if prompt.is_empty() || prompt.len() >= context {
            return Err(RequestError::PromptLength { tokens: prompt.len(), context });
        }
        let vocabulary = manifest.vocabulary;
        if let Some(&token) = prompt.iter().find(|&&token| token >= vocabulary) {
            return Err(RequestError::PromptToken { token, vocabulary });
        }
        Ok(Question { prompt, sampling: self.sampling(manifest)?, stops: self.stops()? })
    }
}

/// The reasons why a request can't be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// A bias for a token that the model has not.
    #[error(
        "logit_bias: there is no token {token}: expected ids of the vocabulary's {vocabulary} \
         tokens, from 0"
    )]
    BiasToken {
        /// The token id that has a bias.
        token: u32,
        /// The number of token ids of the model.
        vocabulary: u32,
    },
    /// Two biases are given for one token.
    #[error("logit_bias: token {token} is given twice")]
    BiasTwice {
        /// The token id that has two biases.
        token: u32,
    },
    /// This machine's clock can't say what day it is.
    #[error("this machine's clock stands before 1970")]
    Clock,
    /// The day is no date that a template can be told.
    #[error(transparent)]
    Date(#[from] DateError),
    /// The text can't be turned into tokens.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The messages can't become a prompt.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The limit of the answer's length is 0 tokens.
    #[error("max_tokens: expected at least 1, got 0")]
    MaxTokens,
    /// A sampling parameter is outside of its range.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The prompt is empty, or leaves no room for an answer.
    #[error(
        "the prompt has {tokens} tokens; the model takes at least 1, and fewer than the {context} \
         of its context"
    )]
    PromptLength {
        /// The number of tokens of the prompt.
        tokens: usize,
        /// The number of positions of the model's context.
        context: usize,
    },
    /// A token of the prompt that the model has not.
    #[error(
        "prompt: there is no token {token}: expected ids of the vocabulary's {vocabulary} tokens, \
         from 0"
    )]
    PromptToken {
        /// The token id in the prompt.
        token: u32,
        /// The number of token ids of the model.
        vocabulary: u32,
    },
    /// A stop text that is empty or too long.
    #[error("stop: expected 1 to {STOP_BYTES} bytes")]
    Stop,
    /// There are more stop texts than a request may have.
    #[error("stop: at most {STOP_STRINGS} stop texts")]
    Stops,
}

impl RequestError {
    /// Returns the parameter that is wrong, as interfaces write it; `None` if the error is about
    /// the prompt as a whole, or about this machine.
    #[must_use]
    pub const fn parameter(&self) -> Option<&'static str> {
        match self {
            Self::BiasToken { .. } | Self::BiasTwice { .. } => Some("logit_bias"),
            Self::Clock | Self::Date(_) | Self::Encode(_) | Self::PromptLength { .. } => None,
            Self::Format(error) => error.parameter(),
            Self::MaxTokens => Some("max_tokens"),
            Self::Parameter(error) => Some(error.name),
            Self::PromptToken { .. } => Some("prompt"),
            Self::Stop | Self::Stops => Some("stop"),
        }
    }
}

/// A builder of requests, which collects the input and the parameters and checks them in
/// [`build`](Self::build).
///
/// ```
/// use lockstep_client::request::{Parameters, RequestBuilder, RequestError};
///
/// let wrong = Parameters { stop: vec![String::new()], ..Parameters::default() };
/// let error = RequestBuilder::raw("Once upon a time").parameters(wrong).check().unwrap_err();
/// assert_eq!(error.parameter(), Some("stop"));
/// ```
#[derive(Clone, Debug)]
pub struct RequestBuilder {
    input: Input,
    format: ChatFormat,
    parameters: Parameters,
    date: Option<Date>,
}

impl RequestBuilder {
    /// Asks for what follows `input`, with no parameter set.
    #[must_use]
    pub fn new(input: Input) -> Self {
        let (format, parameters) = (ChatFormat::default(), Parameters::default());
        Self { input, format, parameters, date: None }
    }

    /// Asks for an answer to the messages of a chat, oldest first.
    #[must_use]
    pub fn messages(messages: impl Into<Vec<Message>>) -> Self {
        Self::new(Input::Messages(messages.into()))
    }

    /// Starts a request whose prompt is `text` as it is, without a template.
    #[must_use]
    pub fn raw(text: impl Into<String>) -> Self {
        Self::new(Input::Raw(text.into()))
    }

    /// Starts a request whose prompt are these tokens.
    #[must_use]
    pub fn tokens_of(tokens: impl Into<Vec<u32>>) -> Self {
        Self::new(Input::Tokens(tokens.into()))
    }

    /// Writes messages in this format instead of the model's own without arguments and tools.
    #[must_use]
    pub fn format(mut self, format: ChatFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets the parameters of the answer.
    #[must_use]
    pub fn parameters(mut self, parameters: Parameters) -> Self {
        self.parameters = parameters;
        self
    }

    /// Tells chat templates that it is this day instead of today.
    #[must_use]
    pub const fn date(mut self, date: Date) -> Self {
        self.date = Some(date);
        self
    }

    /// Checks what can be known without a model: parameters and stop texts.
    ///
    /// # Errors
    /// [`RequestError`] names the parameter.
    pub fn check(&self) -> Result<(), RequestError> {
        self.parameters.unbound_sampling()?;
        self.parameters.stops()?;
        if self.parameters.max_tokens == 0 { Err(RequestError::MaxTokens) } else { Ok(()) }
    }

    /// Returns the prompt's tokens, whatever their number.
    ///
    /// # Errors
    /// [`RequestError`]: the messages can't become a prompt, or the text no tokens.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, RequestError> {
        match &self.input {
            Input::Messages(messages) => {
                let date = self.date.map_or_else(today, Ok)?;
                Ok(self.format.tokens(tokenizer, messages, date)?)
            }
            Input::Raw(text) => Ok(tokenizer.encode_prompt(text, ControlText::Parse)?),
            Input::Tokens(tokens) => Ok(tokens.clone()),
        }
    }

    /// Returns the question for one model, all of it checked.
    ///
    /// # Errors
    /// [`RequestError`] says which parameter is wrong, or what is wrong with the prompt.
    pub fn build(
        &self,
        manifest: &Manifest,
        tokenizer: &Tokenizer,
    ) -> Result<Question, RequestError> {
        self.check()?;
        self.parameters.question(self.tokens(tokenizer)?, manifest)
    }
}

/// Returns the day that it is by this machine's clock.
fn today() -> Result<Date, RequestError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_err(|_| RequestError::Clock)?.as_secs();
    Ok(Date::from_days_since_1970(seconds / 86_400)?)
}

#[cfg(test)]
mod tests {
    use lockstep_testing::tiny_model::TinyModel;

    use super::*;

    fn parameters(change: impl FnOnce(&mut Parameters)) -> Parameters {
        let mut parameters = Parameters::default();
        change(&mut parameters);
        parameters
    }

    #[test]
    fn a_wrong_parameter_is_named_as_interfaces_write_it_with_what_was_expected() {
        let bias = |token| Bias { token, bias: 1.0 };
        type Change = Box<dyn FnOnce(&mut Parameters)>;
        let cases: Vec<(Change, &str, &str)> = vec![
            (Box::new(|p| p.sampling.temperature = -1.0), "temperature", "expected 0 or 0.01"),
            (Box::new(|p| p.sampling.top_p = 0.0), "top_p", "expected a number above 0"),
            (Box::new(|p| p.sampling.min_p = 2.0), "min_p", "expected 0..=1, got 2"),
            (Box::new(|p| p.stop = vec![String::new()]), "stop", "expected 1 to"),
            (Box::new(|p| p.stop = vec!["x".repeat(STOP_BYTES + 1)]), "stop", "expected 1 to"),
            (Box::new(|p| p.stop = vec!["x".into(); STOP_STRINGS + 1]), "stop", "at most"),
            (Box::new(|p| p.max_tokens = 0), "max_tokens", "expected at least 1"),
            (
                Box::new(move |p| p.sampling.logit_bias = vec![bias(3), bias(1), bias(3)]),
                "logit_bias",
                "token 3 is given twice",
            ),
        ];
        for (change, parameter, words) in cases {
            let builder = RequestBuilder::raw("a").parameters(parameters(change));
            let error = builder.check().unwrap_err();
            assert_eq!(error.parameter(), Some(parameter), "{error}");
            let text = error.to_string();
            assert!(text.starts_with(&format!("{parameter}: ")) && text.contains(words), "{text}");
        }
    }

    #[test]
    fn what_depends_on_the_model_is_checked_for_the_model() {
        let manifest = TinyModel::new(1).manifest;
        let vocabulary = manifest.vocabulary;
        let biased = |token| {
            let bias = vec![Bias { token, bias: 1.0 }, Bias { token: 0, bias: -1.0 }];
            parameters(|p| p.sampling.logit_bias = bias)
        };
        let sorted = biased(vocabulary - 1).sampling(&manifest).unwrap().logit_bias;
        assert_eq!(sorted.iter().map(|entry| entry.token).collect::<Vec<_>>(), [0, vocabulary - 1]);
        let error = biased(vocabulary).sampling(&manifest).unwrap_err();
        assert_eq!(error, RequestError::BiasToken { token: vocabulary, vocabulary });
        assert_eq!(error.parameter(), Some("logit_bias"));

        let context = manifest.context as usize;
        let of = |prompt: Vec<u32>| Parameters::default().question(prompt, &manifest);
        for tokens in [0, context, context + 1] {
            let error = of(vec![1; tokens]).unwrap_err();
            assert_eq!(error, RequestError::PromptLength { tokens, context });
        }
        assert_eq!(of(vec![1; context - 1]).unwrap().prompt.len(), context - 1);
        let error = of(vec![0, vocabulary, 1]).unwrap_err();
        assert_eq!(error, RequestError::PromptToken { token: vocabulary, vocabulary });
    }
}
