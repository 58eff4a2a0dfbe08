// Attention of one query and its gradients by definition, in fp64.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace lck::test {

using Row = std::vector<double>;

// A key that a query sees; gradients are added to dk, dv and dbias.
struct PlainKey {
  Row k, v;
  double *dk, *dv;
  double bias = 0, keep = 1;  // keep: dropout's factor
  double* dbias = nullptr;
};

struct PlainRule {
  double softmax_scale, softcap = 0;
  double sink = -INFINITY;
};

struct PlainResult {
  Row out;
  double lse, delta;  // delta: <dout, out> - dlse
};

inline double dot(const Row& a, const double* b) {
  double total = 0;
  for (size_t d = 0; d < a.size(); ++d) total += a[d] * b[d];
  return total;
}

// The result of query q; adds to dq (head_dim), to the keys' gradients, and to dsink if not null.
inline PlainResult plain_attention(const PlainRule& rule, const Row& q, const std::vector<PlainKey>& keys,
                                   const Row& dout, double dlse, double* dq, double* dsink) {
  std::vector<double> scores, slopes;
  double most = rule.sink;
  for (const PlainKey& key : keys) {
    const double product = rule.softmax_scale * dot(q, key.k.data());
    const double tanh = rule.softcap ? std::tanh(product / rule.softcap) : 0;
    scores.push_back((rule.softcap ? rule.softcap * tanh : product) + key.bias);
    slopes.push_back(1 - tanh * tanh);
    most = std::max(most, scores.back());
  }
  PlainResult result{Row(dout.size()), -INFINITY, -dlse};
  if (most == -INFINITY) return result;
  double total = std::exp(rule.sink - most);
  for (const double score : scores) total += std::exp(score - most);
  result.lse = most + std::log(total);
  for (size_t j = 0; j < keys.size(); ++j) {
    const double p = std::exp(scores[j] - result.lse) * keys[j].keep;
    for (size_t d = 0; d < dout.size(); ++d) {
      result.out[d] += p * keys[j].v[d];
      keys[j].dv[d] += p * dout[d];
    }
  }
  result.delta = dot(dout, result.out.data()) - dlse;
  for (size_t j = 0; j < keys.size(); ++j) {
    const double dp = keys[j].keep * dot(dout, keys[j].v.data());
    const double ds = std::exp(scores[j] - result.lse) * (dp - result.delta);
    if (keys[j].dbias) *keys[j].dbias += ds;
    const double factor = ds * slopes[j] * rule.softmax_scale;
    for (size_t d = 0; d < q.size(); ++d) {
      dq[d] += factor * keys[j].k[d];
      keys[j].dk[d] += factor * q[d];
    }
  }
  if (dsink) *dsink -= std::exp(rule.sink - result.lse) * result.delta;
  return result;
}

}  // namespace lck::test
