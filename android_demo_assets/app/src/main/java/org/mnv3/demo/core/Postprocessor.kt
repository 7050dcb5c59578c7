package org.mnv3.demo.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.exp

/** A class with its probability. */
data class Answer(val index: Int, val label: String, val probability: Float)

/** Makes probabilities from the model's output, by the bundle's contract. */
class Postprocessor(private val contract: BundleContract, private val labels: List<String>) {

    /** A probability for each class, from the bytes that the interpreter wrote. */
    fun probabilities(output: ByteBuffer): DoubleArray {
        val rule = contract.output
        val bytes = output.duplicate().order(ByteOrder.nativeOrder())
        bytes.rewind()
        val values = DoubleArray(rule.elements) {
            when (rule.dtype) {
                "uint8" -> ((bytes.get().toInt() and 0xFF) - rule.zeroPoint) * rule.scale
                "int8" -> (bytes.get().toInt() - rule.zeroPoint) * rule.scale
                "float32" -> bytes.getFloat().toDouble()
                else -> throw IllegalArgumentException("outputs of type ${rule.dtype} are not known")
            }
        }
        return probabilities(values)
    }

    /** A probability for each class, from real outputs in the order of the classes. */
    fun probabilities(values: DoubleArray): DoubleArray {
        if (contract.isProbability) return values
        val largest = values.max()
        val powers = DoubleArray(values.size) { exp(values[it] - largest) }
        val sum = powers.sum()
        return DoubleArray(values.size) { powers[it] / sum }
    }

    /** The best `count` classes, best first; never more than there are. */
    fun top(output: ByteBuffer, count: Int): List<Answer> = top(probabilities(output), count)

    /** The same from probabilities. */
    fun top(scores: DoubleArray, count: Int): List<Answer> =
        scores.indices.sortedByDescending { scores[it] }.take(count).map { Answer(it, labels[it], scores[it].toFloat()) }
}
